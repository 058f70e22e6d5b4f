"""Frames as amplitudes: read at once or on demand, and binned."""

import functools
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import Saturated, Scan
from bluesky_multislice.optics import on_device


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
        return coarsen_each(amplitudes, len(index), self._mask_here, self.factor, far_field=self.far_field)

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


def coarsen_each(frames: Iterable[Tensor], number: int, mask: Tensor, factor: int, *, far_field: bool) -> Tensor:
    """Return ``number`` amplitudes (1, y, x) stacked as (view, y, x) and coarsened one at a time to save memory."""
    rows, columns = (n // factor for n in mask.shape)
    found = torch.empty((number, rows, columns), device=mask.device)
    for at, frame in enumerate(frames):
        found[at : at + 1] = coarsen(frame, mask, factor, far_field=far_field)[0]
    return found
