"""Views of a rank: frames in memory or read on demand, and their order in each epoch."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import Saturated, Scan
from bluesky_multislice.optics import on_device
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.empty_beam import EmptyBeam

"""Where a rank keeps its frames: all in memory, or on disk until their batch is computed."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class AmplitudeReader:
    """Reads frames as amplitudes.

    Attributes:
        scan: the scan.
        views: (n,) indices of the views.
        scale: intensity that is normalised to 1.
        device: device of the amplitudes.
        saturated: treatment of saturated pixels.
        factor: binning factor; pixels of the scan's frames per amplitude pixel and axis.
        far_field: if True, a coarser frame is the central part of a pattern; if False, pixels are averaged in blocks.
        rows: rows of the scan's frames to keep.
    """

    scan: Scan
    views: NDArray[np.intp]
    scale: float
    device: torch.device
    saturated: Saturated = "refuse"
    factor: int = 1
    far_field: bool = False
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def mask(self) -> Tensor:
        """(y, x) 1 for good pixels of the kept rows, else 0."""
        return on_device(self.scan.frames.mask[self.rows], self.device, torch.float32)

    def read(self, index: NDArray[np.intp]) -> Tensor:
        """Return the amplitudes (view, y, x) of these views.

        Copies to an accelerator are asynchronous, from pinned memory.
        """
        frames = (
            self.scan.frames.read(np.array([view]), saturated=self.saturated, kept=self.rows)
            for view in self.views[index]
        )
        amplitudes = (on_device(torch.from_numpy(frame).div_(self.scale).sqrt_(), self.device) for frame in frames)
        return _coarsen_each(amplitudes, len(index), self._mask_here, self.factor, far_field=self.far_field)

    @functools.cached_property
    def _mask_here(self) -> Tensor:
        return self.mask


class Prefetcher:
    """Reads batches of frames ahead in a thread, and keeps the last few.

    Args:
        batches: number of batches to read ahead.
    """

    def __init__(self, batches: int = 1) -> None:
        self.batches = batches
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._held: dict[tuple[AmplitudeReader, bytes], Future[_PendingFrames]] = {}
        self._stream: torch.Stream | None = None

    def read(self, reader: AmplitudeReader, wanted: Sequence[NDArray[np.intp]]) -> Tensor:
        """Return the first wanted batch and start to read the others; batches that are not wanted are dropped first."""
        keys = [(reader, batch.tobytes()) for batch in wanted]
        for key in self._held.keys() - set(keys):
            self._held.pop(key).cancel()
        for key, batch in zip(keys, wanted, strict=True):
            if key not in self._held:
                self._held[key] = self._thread.submit(self._read_and_copy, reader, batch)
        return self._held[keys[0]].result().wait()

    def _read_and_copy(self, reader: AmplitudeReader, batch: NDArray[np.intp]) -> "_PendingFrames":
        """Read a batch and start its copy, on an accelerator in a stream of its own."""
        if reader.device.type == "cpu":
            return _PendingFrames(reader.read(batch))
        if self._stream is None:
            self._stream = torch.Stream(reader.device)
        with self._stream:
            return _PendingFrames(reader.read(batch), self._stream.record_event())


@dataclass(frozen=True, eq=False)
class _PendingFrames:
    """Frames whose copy to an accelerator may be unfinished, and the event that marks its end."""

    frames: Tensor
    copied: torch.Event | None = None

    def wait(self) -> Tensor:
        """Return the frames; later work on the accelerator waits for the copy, the host does not."""
        if self.copied is not None:
            stream = torch.accelerator.current_stream(self.frames.device)
            stream.wait_event(self.copied)
            self.frames.record_stream(stream)
        return self.frames


class StreamedAmplitudes:
    """Amplitudes on disk: a batch is read on request, and the next batches are read ahead.

    Args:
        reader: reads the frames.
        ahead: the prefetching thread; view sets that share it keep together no more batches than one of them alone.
    """

    def __init__(self, reader: AmplitudeReader, ahead: Prefetcher) -> None:
        self.reader, self.ahead = reader, ahead
        self._order: list[NDArray[np.intp]] = []
        self._position: dict[bytes, int] = {}

    def set_order(self, batches: Sequence[NDArray[np.intp]]) -> None:
        """Set the order in which batches will be requested."""
        self._order = [batch for batch in batches if len(batch)]
        self._position = {batch.tobytes(): at for at, batch in enumerate(self._order)}

    def __getitem__(self, index: NDArray[np.intp], /) -> Tensor:
        """Return amplitudes (view, y, x), and start to read the next batches."""
        if not len(index):
            return self.reader.read(index)
        wanted = {index.tobytes(): index}
        if (at := self._position.get(index.tobytes())) is not None:
            for offset in range(1, 1 + self.ahead.batches):
                batch = self._order[(at + offset) % len(self._order)]
                wanted.setdefault(batch.tobytes(), batch)
        return self.ahead.read(self.reader, list(wanted.values()))


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
        amplitude = _coarsen_each(frames, len(frames), self.mask, factor, far_field=far_field)
        mask = coarsen(self.mask[None], self.mask, factor, far_field=far_field)[1]
        return replace(self, amplitude=amplitude, mask=mask, coarseness=factor)


def make_batches(
    angles: NDArray[np.float64], heights: NDArray[np.float64], size: int, shuffle: np.random.Generator | None
) -> list[NDArray[np.intp]]:
    """Return batches of view indices; a batch mixes angles only if two complete angles fit into it.

    Successive angles differ by the golden ratio of the angular range, so that any few consecutive batches cover all
    directions (Köhler, IEEE Symp. Conf. Rec. Nucl. Sci. 6, 3961 (2004)). Each batch samples all heights, so that the
    ranks of all slabs have equal work.

    Args:
        angles: (view,) rotation angle.
        heights: (view,) position along the rotation axis.
        size: largest number of views per batch.
        shuffle: random generator for the first angle and the order of views; None: scan order.
    """
    index = np.arange(len(angles))
    if shuffle is not None:
        index = shuffle.permutation(index)
    groups = [index[angles[index] == angle] for angle in np.unique(angles)]
    order = np.arange(len(groups))
    if shuffle is not None:
        order = np.argsort((_GOLDEN * order + shuffle.random()) % 1)
    mixed = 2 * max(map(len, groups), default=0) <= size
    if mixed and shuffle is None and groups:
        # Outside of a fit: as few rotations as possible.
        return np.array_split(np.concatenate(groups), math.ceil(len(index) / size))
    counts = [len(group) if mixed else math.ceil(len(group) / size) for group in groups]
    pieces = [_stratified(group, heights, count, shuffle) for group, count in zip(groups, counts, strict=True)]
    rounds = range(max(map(len, pieces), default=0))
    batches = [pieces[at][number] for number in rounds for at in order if number < len(pieces[at])]
    if mixed and batches:
        return np.array_split(np.concatenate(batches), math.ceil(len(index) / size))
    return batches


def _stratified(
    views: NDArray[np.intp], heights: NDArray[np.float64], parts: int, shuffle: np.random.Generator | None
) -> list[NDArray[np.intp]]:
    """Divide views into parts, stratified by height: of ``parts`` successive views by height, each part gets one."""
    assigned = np.tile(np.arange(parts), (math.ceil(len(views) / parts), 1))
    if shuffle is not None:
        assigned = shuffle.permuted(assigned, axis=1)
    part = np.empty(len(views), np.intp)
    part[np.argsort(heights[views], kind="stable")] = assigned.ravel()[: len(views)]
    return [views[part == number] for number in range(parts)]


def coarsen(amplitude: Tensor, mask: Tensor, factor: int, *, far_field: bool) -> tuple[Tensor, Tensor]:
    """Return amplitudes (view, y, x) and the mask (y, x) of frames ``factor`` times coarser.

    A hologram block without usable pixels in a frame is NaN in that frame.
    """
    if factor == 1:
        return amplitude, mask
    rows, columns = (n // factor for n in mask.shape)
    if far_field:
        top, left = (n // 2 - m // 2 for n, m in zip(mask.shape, (rows, columns), strict=True))
        middle = (..., slice(top, top + rows), slice(left, left + columns))
        return amplitude[middle] / factor, mask[middle]
    invalid = amplitude.isnan()
    intensity, used, good = (
        part[..., : rows * factor, : columns * factor].unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))
        for part in ((amplitude.nan_to_num() * mask).square(), mask * ~invalid, mask)
    )
    intensity, used = intensity.sum((-3, -1)), used.sum((-3, -1))
    mask = (good.sum((-3, -1)) > 0).to(mask)
    return torch.where(mask > 0, torch.where(used > 0, intensity / used, math.nan).sqrt(), 0.0), mask


def _coarsen_each(frames: Iterable[Tensor], number: int, mask: Tensor, factor: int, *, far_field: bool) -> Tensor:
    """Return ``number`` amplitudes (1, y, x) stacked as (view, y, x) and coarsened one at a time to save memory."""
    rows, columns = (n // factor for n in mask.shape)
    found = torch.empty((number, rows, columns), device=mask.device)
    for at, frame in enumerate(frames):
        found[at : at + 1] = coarsen(frame, mask, factor, far_field=far_field)[0]
    return found


def split_views(views: int, held_back_every: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the fitted views and the validation views: every n-th; none if n is 0 or not less than ``views``."""
    everything = np.arange(views)
    if held_back_every == 0 or views <= held_back_every:
        return everything, everything[:0]
    held = everything % held_back_every == 0
    return everything[~held], everything[held]


def assign_lanes(views: NDArray[np.intp], lanes: int, angle_rad: NDArray[np.float64] | None = None) -> NDArray[np.intp]:
    """Return the lane (n,) of each view.

    Args:
        views: (n,) view indices of all ranks.
        lanes: number of lanes.
        angle_rad: rotation angle of every view of the scan. All views of an angle are then in one lane, and each lane
            has a sector of the angles: a step, with a batch of every lane, covers all directions. None: views are
            assigned one by one in turn.
    """
    if angle_rad is None:
        return np.arange(len(views)) % lanes
    angles, angle_of = np.unique(angle_rad[views], return_inverse=True)
    return angle_of * lanes // max(len(angles), 1)


def share_views(
    views: NDArray[np.intp], lanes: int, mesh: Mesh, angle_rad: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the views of this rank's angle group, and their lanes.

    Views are assigned to lanes and lanes to groups. The views of a step therefore depend on the number of lanes but not
    on the number of ranks.

    Args:
        views: (n,) view indices of all ranks.
        lanes: number of lanes.
        mesh: the ranks.
        angle_rad: see ``assign_lanes``.
    """
    lane = assign_lanes(views, lanes, angle_rad)
    here = lane % mesh.angles == mesh.angle
    return views[here], lane[here]


def share_held_back(views: NDArray[np.intp], angle_rad: NDArray[np.float64], groups: int) -> list[NDArray[np.intp]]:
    """Return the validation views of each angle group, in whole angles if possible, to save rotations.

    Args:
        views: (n,) validation views of all ranks.
        angle_rad: rotation angle of every view of the scan.
        groups: number of angle groups.
    """
    by_angle = views[np.argsort(angle_rad[views], kind="stable")]
    return [np.sort(share) for share in np.array_split(by_angle, groups)]


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
