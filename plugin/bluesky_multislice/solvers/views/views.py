"""Views of a rank, with their frames, in batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import Saturated, Scan
from bluesky_multislice.optics import on_device
from bluesky_multislice.solvers.empty_beam import EmptyBeam
from bluesky_multislice.solvers.views.amplitudes import (
    AmplitudeReader,
    Prefetcher,
    StreamedAmplitudes,
    coarsen,
    coarsen_each,
)
from bluesky_multislice.solvers.views.batches import make_batches


@dataclass(frozen=True, eq=False)
class ViewSet:
    """Views of an angle group of ranks, and the frames of those that this rank computes.

    Attributes:
        views: (n,) indices of the views in the scan.
        angles: (n,) rotation angle of each view.
        heights: (n,) position of each view along the rotation axis.
        amplitude: (own, y, x) square root of the normalised frames that this rank computes; NaN where a pixel is
            saturated in a frame.
        mask: (y, x) 1 for good pixels, else 0.
        lane: (n,) lane of each view; a step of the fit takes batches from every lane. None: all views are in one lane.
        own: (n,) whether this rank computes the view; None: all views.
        coarseness: binning factor of the frames relative to the scan's.
        empty: flats that the probe must fit as well; None if frames are divided by flats.
    """

    views: NDArray[np.intp]
    angles: NDArray[np.float64]
    heights: NDArray[np.float64]
    amplitude: Tensor | StreamedAmplitudes
    mask: Tensor
    lane: NDArray[np.intp] | None = None
    own: NDArray[np.bool_] | None = None
    coarseness: int = 1
    empty: EmptyBeam | None = None

    def measured(self, batch: NDArray[np.intp]) -> Tensor:
        """Return the amplitudes (view, y, x) of the views of a batch that this rank computes, in their order."""
        rows = self._rows_of(batch)
        if isinstance(self.amplitude, StreamedAmplitudes):
            return self.amplitude[rows]
        return self.amplitude[on_device(rows, self.amplitude.device)]

    def lanes(self) -> list[int]:
        """Return the lane numbers of the views."""
        return [0] if self.lane is None else np.unique(self.lane).tolist()

    def batches(self, size: int, shuffle: np.random.Generator | None = None) -> list[NDArray[np.intp]]:
        """Return batches of indices into ``views``, with all lanes merged; see ``steps``."""
        batches = make_batches(self.angles, self.heights, size, shuffle)
        self._set_read_order(batches)
        return batches

    def steps(self, size: int, shuffles: Mapping[int, np.random.Generator | None]) -> list[list[NDArray[np.intp]]]:
        """Return the batches of each step, as indices into ``views``: one of every lane that has batches left.

        Frames on disk are read ahead in the order that was returned last.

        Args:
            size: largest number of views per batch.
            shuffles: random generator of each lane, for the first angle and the order of views; None: scan order.
        """
        everything = np.arange(len(self.views))
        lanes = []
        for number in self.lanes():
            index = everything if self.lane is None else np.flatnonzero(self.lane == number)
            batches = make_batches(self.angles[index], self.heights[index], size, shuffles[number])
            lanes.append([index[batch] for batch in batches])
        steps = [[lane[at] for lane in lanes if at < len(lane)] for at in range(max(map(len, lanes), default=0))]
        self._set_read_order([batch for step in steps for batch in step])
        return steps

    def _set_read_order(self, batches: Sequence[NDArray[np.intp]]) -> None:
        if isinstance(self.amplitude, StreamedAmplitudes):
            self.amplitude.set_order([self._rows_of(batch) for batch in batches])

    def _rows_of(self, batch: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices of a batch into ``amplitude``."""
        if self.own is None:
            return batch
        return (np.cumsum(self.own) - 1)[batch[self.own[batch]]]

    def coarser(self, factor: int, *, far_field: bool) -> "ViewSet":
        """Return the frames binned as in ``ScanGeometry.coarser``, with the same mean if no intensity is lost.

        A coarser pattern is the central part of the pattern; a hologram block is the mean of its good pixels.
        """
        if factor == 1:
            return self
        if isinstance(self.amplitude, StreamedAmplitudes):
            reader = replace(self.amplitude.reader, factor=factor, far_field=far_field)
            mask = coarsen(self.mask[None], self.mask, factor, far_field=far_field)[1]
            streamed = StreamedAmplitudes(reader, self.amplitude.ahead)
            return replace(self, amplitude=streamed, mask=mask, coarseness=factor)
        frames = self.amplitude[:, None]
        amplitude = coarsen_each(frames, len(frames), self.mask, factor, far_field=far_field)
        mask = coarsen(self.mask[None], self.mask, factor, far_field=far_field)[1]
        return replace(self, amplitude=amplitude, mask=mask, coarseness=factor)


def load_views(
    scan: Scan,
    views: NDArray[np.intp],
    *,
    scale: float,
    device: torch.device,
    saturated: Saturated = "refuse",
    ahead: Prefetcher | None = None,
    lane: NDArray[np.intp] | None = None,
    own: NDArray[np.bool_] | None = None,
    rows: slice = slice(None),
) -> ViewSet:
    """Read frames as amplitudes, or prepare to read them on demand.

    Args:
        scan: the scan.
        views: (n,) views of the ranks of this angle group.
        scale: intensity that is normalised to 1.
        device: device of the amplitudes.
        saturated: treatment of saturated pixels.
        ahead: reads frames batch by batch on demand; None: read all frames now and keep them in memory.
        lane: (n,) lane of each view; None: one lane.
        own: (n,) whether this rank computes and reads the view; None: all views.
        rows: rows of the frames that this rank computes and keeps.

    Raises:
        FramesError: a frame cannot be used; for frames on disk, raised when the frame is read.
    """
    read = views if own is None else views[own]
    reader = AmplitudeReader(scan, read, scale, device, saturated, rows=rows)
    amplitude = StreamedAmplitudes(reader, ahead) if ahead else reader.read(np.arange(len(read)))
    geometry = scan.geometry
    heights = geometry.position_m[views, 0]
    return ViewSet(views, geometry.angle_rad[views], heights, amplitude, reader.mask, lane, own)
