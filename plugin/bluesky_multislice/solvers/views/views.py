"""The views that a rank works on: its frames, in memory or read as they are needed, and their order in each epoch."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import Saturated, Scan
from bluesky_multislice.optics import on_device
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.empty_beam import EmptyBeam

FramesIn = Literal["memory", "disk"]
"""Where a rank keeps its frames: all of them in memory, or on disk until their batch comes."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class AmplitudeReader:
    """Reads frames as amplitudes.

    Attributes:
        scan: what was measured.
        views: (n,) which views.
        scale: intensity that becomes one.
        device: where amplitudes go.
        saturated: what a saturated pixel means.
        factor: pixels of the scan's frames on a side of one of the amplitudes'.
        far_field: whether a coarser frame is the middle of a pattern, or made of blocks.
        rows: which rows of the scan's frames are kept.
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
        """(y, x) 1 where a pixel of the rows that are kept is good, else 0."""
        return on_device(self.scan.frames.mask[self.rows], self.device, torch.float32)

    def read(self, index: NDArray[np.intp]) -> Tensor:
        """Return the amplitudes (view, y, x) of some of the views.

        An accelerator gets them from pinned memory, by copies that the host does not wait for.
        """
        frames = (
            self.scan.frames.read(np.array([view]), saturated=self.saturated, kept=self.rows)
            for view in self.views[index]
        )
        amplitudes = (on_device(torch.from_numpy(frame).div_(self.scale).sqrt_(), self.device) for frame in frames)
        return _coarsened(amplitudes, len(index), self._mask_here, self.factor, far_field=self.far_field)

    @functools.cached_property
    def _mask_here(self) -> Tensor:
        return self.mask


class ReadAhead:
    """A thread that reads batches of frames, and the few that are held, whichever views they are of.

    Args:
        batches: how many are read before they are asked for.
    """

    def __init__(self, batches: int = 1) -> None:
        self.batches = batches
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._held: dict[tuple[AmplitudeReader, bytes], Future[_Coming]] = {}
        self._stream: torch.Stream | None = None

    def read(self, reader: AmplitudeReader, wanted: Sequence[NDArray[np.intp]]) -> Tensor:
        """Return the first batch that is wanted, and begin to read the others; what is not wanted is let go before."""
        keys = [(reader, batch.tobytes()) for batch in wanted]
        for key in self._held.keys() - set(keys):
            self._held.pop(key).cancel()
        for key, batch in zip(keys, wanted, strict=True):
            if key not in self._held:
                self._held[key] = self._thread.submit(self._bring, reader, batch)
        return self._held[keys[0]].result().arrive()

    def _bring(self, reader: AmplitudeReader, batch: NDArray[np.intp]) -> "_Coming":
        """Read a batch and start its copy, on an accelerator beside what that computes."""
        if reader.device.type == "cpu":
            return _Coming(reader.read(batch))
        if self._stream is None:
            self._stream = torch.Stream(reader.device)
        with self._stream:
            return _Coming(reader.read(batch), self._stream.record_event())


@dataclass(frozen=True, eq=False)
class _Coming:
    """Frames that may still be on their way to an accelerator, and what tells their arrival."""

    frames: Tensor
    arrived: torch.Event | None = None

    def arrive(self) -> Tensor:
        """Return the frames; what an accelerator computes from here on waits for them, the host does not."""
        if self.arrived is not None:
            here = torch.accelerator.current_stream(self.frames.device)
            here.wait_event(self.arrived)
            self.frames.record_stream(here)
        return self.frames


class StreamedAmplitudes:
    """Amplitudes on disk. A batch is read when it is asked for, and those behind it meanwhile.

    Args:
        reader: what reads them.
        ahead: the thread that does; sets of views that share it hold no more batches together than one of them.
    """

    def __init__(self, reader: AmplitudeReader, ahead: ReadAhead) -> None:
        self.reader, self.ahead = reader, ahead
        self._order: list[NDArray[np.intp]] = []
        self._place: dict[bytes, int] = {}

    def expect(self, batches: Sequence[NDArray[np.intp]]) -> None:
        """Say in which order batches will be asked for."""
        self._order = [batch for batch in batches if len(batch)]
        self._place = {batch.tobytes(): at for at, batch in enumerate(self._order)}

    def __getitem__(self, index: NDArray[np.intp], /) -> Tensor:
        """Return amplitudes (view, y, x), and begin to read those that come next."""
        if not len(index):
            return self.reader.read(index)
        wanted = {index.tobytes(): index}
        if (at := self._place.get(index.tobytes())) is not None:
            for further in range(1, 1 + self.ahead.batches):
                batch = self._order[(at + further) % len(self._order)]
                wanted.setdefault(batch.tobytes(), batch)
        return self.ahead.read(self.reader, list(wanted.values()))


@dataclass(frozen=True, eq=False)
class ViewSet:
    """Views that the ranks of an angle work on, and the frames of those that this rank computes.

    Attributes:
        views: (n,) which views of the scan.
        angles: (n,) rotation angle of each.
        heights: (n,) position of each along the rotation axis.
        amplitude: (own, y, x) square root of the frames over their scale, of the views that this rank computes; NaN
            where a pixel is saturated in a frame.
        mask: (y, x) 1 where a pixel is good, else 0.
        lane: (n,) lane of each view; a step of the fit takes a batch from every lane. None: all views are in one.
        own: (n,) which of the views this rank computes; None: all.
        coarseness: pixels of the scan's frames on a side of one of these, as the pixels sample the object.
        empty: flats that the probe has to explain, too; None where they are divided out.
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
        """Return the amplitudes (view, y, x) of those views of a batch that this rank computes, in their order."""
        rows = self._rows_of(batch)
        if isinstance(self.amplitude, StreamedAmplitudes):
            return self.amplitude[rows]
        return self.amplitude[on_device(rows, self.amplitude.device)]

    def lanes(self) -> list[int]:
        """Return the numbers of the lanes that the views are in."""
        return [0] if self.lane is None else np.unique(self.lane).tolist()

    def batches(self, size: int, shuffle: np.random.Generator | None = None) -> list[NDArray[np.intp]]:
        """Return batches of indices into ``views``, of all lanes as if they were one; see ``steps``."""
        batches = in_batches(self.angles, self.heights, size, shuffle)
        self._read_ahead(batches)
        return batches

    def steps(self, size: int, shuffles: Mapping[int, np.random.Generator | None]) -> list[list[NDArray[np.intp]]]:
        """Return the batches of each step, indices into ``views``: one of every lane, as long as it has any left.

        Frames on disk are read ahead in the order that was returned last.

        Args:
            size: most views a batch.
            shuffles: for each lane, where to start, and the order of each angle's views; None keeps them in order.
        """
        everything = np.arange(len(self.views))
        lanes = []
        for number in self.lanes():
            index = everything if self.lane is None else np.flatnonzero(self.lane == number)
            batches = in_batches(self.angles[index], self.heights[index], size, shuffles[number])
            lanes.append([index[batch] for batch in batches])
        steps = [[lane[at] for lane in lanes if at < len(lane)] for at in range(max(map(len, lanes), default=0))]
        self._read_ahead([batch for step in steps for batch in step])
        return steps

    def _read_ahead(self, batches: Sequence[NDArray[np.intp]]) -> None:
        if isinstance(self.amplitude, StreamedAmplitudes):
            self.amplitude.expect([self._rows_of(batch) for batch in batches])

    def _rows_of(self, batch: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return where the amplitudes of a batch are."""
        if self.own is None:
            return batch
        return (np.cumsum(self.own) - 1)[batch[self.own[batch]]]

    def coarser(self, factor: int, *, far_field: bool) -> "ViewSet":
        """Return the frames as ``ScanGeometry.coarser`` samples them, of the same mean where they keep all their light.

        A pattern's middle concentrates its light; a block of hologram pixels has the mean of its good ones.
        """
        if factor == 1:
            return self
        if isinstance(self.amplitude, StreamedAmplitudes):
            reader = replace(self.amplitude.reader, factor=factor, far_field=far_field)
            mask = coarsen(self.mask[None], self.mask, factor, far_field=far_field)[1]
            streamed = StreamedAmplitudes(reader, self.amplitude.ahead)
            return replace(self, amplitude=streamed, mask=mask, coarseness=factor)
        frames = self.amplitude[:, None]
        amplitude = _coarsened(frames, len(frames), self.mask, factor, far_field=far_field)
        mask = coarsen(self.mask[None], self.mask, factor, far_field=far_field)[1]
        return replace(self, amplitude=amplitude, mask=mask, coarseness=factor)


def in_batches(
    angles: NDArray[np.float64], heights: NDArray[np.float64], size: int, shuffle: np.random.Generator | None
) -> list[NDArray[np.intp]]:
    """Return batches of indices of views; a batch mixes angles only where two of them with all their views fit in.

    Angles follow each other by the golden ratio of their range, so that a few batches in a row, wherever they start,
    look from all sides (Köhler, IEEE Symp. Conf. Rec. Nucl. Sci. 6, 3961 (2004)). Each batch of an angle has its share
    of views at every height, so that the ranks of all slabs have as much to do.

    Args:
        angles: (view,) rotation angle of each.
        heights: (view,) position of each along the rotation axis.
        size: most views a batch.
        shuffle: where to start, and the order of each angle's views; None keeps them in order.
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
        # In no step of a fit: as few turns as can be.
        return np.array_split(np.concatenate(groups), math.ceil(len(index) / size))
    counts = [len(group) if mixed else math.ceil(len(group) / size) for group in groups]
    pieces = [_dealt_out(group, heights, count, shuffle) for group, count in zip(groups, counts, strict=True)]
    rounds = range(max(map(len, pieces), default=0))
    batches = [pieces[at][number] for number in rounds for at in order if number < len(pieces[at])]
    if mixed and batches:
        return np.array_split(np.concatenate(batches), math.ceil(len(index) / size))
    return batches


def _dealt_out(
    views: NDArray[np.intp], heights: NDArray[np.float64], parts: int, shuffle: np.random.Generator | None
) -> list[NDArray[np.intp]]:
    """Deal views out to so many parts: of as many in a row as there are parts, by height, each part gets one."""
    hands = np.tile(np.arange(parts), (math.ceil(len(views) / parts), 1))
    if shuffle is not None:
        hands = shuffle.permuted(hands, axis=1)
    part = np.empty(len(views), np.intp)
    part[np.argsort(heights[views], kind="stable")] = hands.ravel()[: len(views)]
    return [views[part == number] for number in range(parts)]


def coarsen(amplitude: Tensor, mask: Tensor, factor: int, *, far_field: bool) -> tuple[Tensor, Tensor]:
    """Return amplitudes (view, y, x) and the mask (y, x) of frames ``factor`` times coarser.

    A block of hologram pixels none of which counts in one frame is NaN there.
    """
    if factor == 1:
        return amplitude, mask
    rows, columns = (n // factor for n in mask.shape)
    if far_field:
        top, left = (n // 2 - m // 2 for n, m in zip(mask.shape, (rows, columns), strict=True))
        middle = (..., slice(top, top + rows), slice(left, left + columns))
        return amplitude[middle] / factor, mask[middle]
    lost = amplitude.isnan()
    light, seen, good = (
        part[..., : rows * factor, : columns * factor].unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))
        for part in ((amplitude.nan_to_num() * mask).square(), mask * ~lost, mask)
    )
    light, seen = light.sum((-3, -1)), seen.sum((-3, -1))
    mask = (good.sum((-3, -1)) > 0).to(mask)
    return torch.where(mask > 0, torch.where(seen > 0, light / seen, math.nan).sqrt(), 0.0), mask


def _coarsened(frames: Iterable[Tensor], number: int, mask: Tensor, factor: int, *, far_field: bool) -> Tensor:
    """Return so many amplitudes (1, y, x) together (view, y, x), coarser; what is computed on the way is of one."""
    rows, columns = (n // factor for n in mask.shape)
    found = torch.empty((number, rows, columns), device=mask.device)
    for at, frame in enumerate(frames):
        found[at : at + 1] = coarsen(frame, mask, factor, far_field=far_field)[0]
    return found


def split_views(views: int, held_back_every: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which views are fitted and which are held back: every n-th; none for 0 or for no more than n views."""
    everything = np.arange(views)
    if held_back_every == 0 or views <= held_back_every:
        return everything, everything[:0]
    held = everything % held_back_every == 0
    return everything[~held], everything[held]


def lanes_of(views: NDArray[np.intp], lanes: int, angle_rad: NDArray[np.float64] | None = None) -> NDArray[np.intp]:
    """Return the lane (n,) of each of some views.

    Args:
        views: (n,) of all ranks.
        lanes: number of lanes.
        angle_rad: rotation angle of every view of the scan: all views of an angle are in one lane, and each lane has a
            sector of the angles, so that a step, which takes a batch of every lane, looks from all sides. None: views
            are dealt out one by one.
    """
    if angle_rad is None:
        return np.arange(len(views)) % lanes
    angles, angle_of = np.unique(angle_rad[views], return_inverse=True)
    return angle_of * lanes // max(len(angles), 1)


def share_views(
    views: NDArray[np.intp], lanes: int, mesh: Mesh, angle_rad: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return those of some views that this rank's angle group works on, and their lanes.

    Lanes are dealt out to the groups, and views to the lanes: which views a step of the fit takes depends on the number
    of lanes and not on that of ranks.

    Args:
        views: (n,) of all ranks.
        lanes: number of lanes.
        mesh: the ranks.
        angle_rad: see ``lanes_of``.
    """
    lane = lanes_of(views, lanes, angle_rad)
    here = lane % mesh.angles == mesh.angle
    return views[here], lane[here]


def share_held_back(views: NDArray[np.intp], angle_rad: NDArray[np.float64], groups: int) -> list[NDArray[np.intp]]:
    """Return the views to judge by of each angle group: whole angles as far as they go, for each has to be turned.

    Args:
        views: (n,) of all ranks.
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
    ahead: ReadAhead | None = None,
    lane: NDArray[np.intp] | None = None,
    own: NDArray[np.bool_] | None = None,
    rows: slice = slice(None),
) -> ViewSet:
    """Read frames as amplitudes, or make them ready to be read.

    Args:
        scan: what was measured.
        views: (n,) which the ranks of this angle work on.
        scale: intensity that becomes one.
        device: where they are kept.
        saturated: what a saturated pixel means.
        ahead: what reads them batch by batch when they are asked for; None reads them at once, and keeps them.
        lane: (n,) lane of each view; None: all are in one.
        own: (n,) which of them this rank computes and reads; None: all.
        rows: which rows of the frames it computes and keeps.

    Raises:
        FramesError: a frame cannot be used; of frames on disk when it is read.
    """
    read = views if own is None else views[own]
    reader = AmplitudeReader(scan, read, scale, device, saturated, rows=rows)
    amplitude = StreamedAmplitudes(reader, ahead) if ahead else reader.read(np.arange(len(read)))
    geometry = scan.geometry
    heights = geometry.position_m[views, 0]
    return ViewSet(views, geometry.angle_rad[views], heights, amplitude, reader.mask, lane, own)
