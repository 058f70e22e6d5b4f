"""Frames of a run, read from the detector's HDF5 files if this machine can access them, otherwise from Tiled.

Shapes: the files contain (frame, y, x) or (frame, 1, y, x); all sources return (row, y, x).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
from numpy.typing import NDArray
from tiled.client.array import ArrayClient
from tiled.client.utils import TILED_RETRY_TIMEOUT
from tiled.utils import path_from_uri

from bluesky_multislice.catalog.client import is_busy
from bluesky_multislice.catalog.tiled_rows import fetch_once, fetch_rows
from bluesky_multislice.errors import FramesError
from bluesky_multislice.files import (
    FrameFile,
    SourceCheck,
    StoredFrames,
    check_mapped,
    find_dataset,
    open_detector_file,
    open_frames,
)
from bluesky_multislice.measurement import Combination, FrameSource, combined_frames

_FRAME_NUMBERS = "/entry/instrument/NDAttributes/NDArrayUniqueId"
"""Dataset of areaDetector's HDF5 plugin with the number of each frame."""


class DetectorFiles:
    """Frames in the concatenated HDF5 files of the detector. A file is open only while it is read.

    Args:
        files: the files, in the order of the scan.

    Raises:
        FramesError: a file is missing or truncated, or holds fewer frames than the scan has.
    """

    def __init__(self, files: Sequence[FrameFile]) -> None:
        self.files = tuple(files)
        self._starts = np.cumsum([0, *(file.frames for file in self.files)])
        shapes, self._checks, self._swmr = [], list[SourceCheck](), list[bool]()
        self.linkable = True
        for file in self.files:
            opened, frames = _open(file)
            with opened:
                shapes.append(frames.shape[1:])
                self.dtype: np.dtype = frames.dtype
                self.linkable &= frames.linkable
                self._checks.append(frames.check)
                self._swmr.append(opened.swmr_mode)
        if len(set(shapes)) != 1:
            raise FramesError(
                "All frames of a scan must have one shape.",
                got=f"{sorted(set(shapes))}.",
                remedy="check the detector's files.",
            )
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *shapes[0])

    def check_mask(self, good: NDArray[np.bool_] | None) -> None:
        """Check that all good pixels (y, x) of virtual datasets have a source.

        Raises:
            FramesError: a good pixel is mapped to no source.
        """
        for file, check in zip(self.files, self._checks, strict=True):
            check_mapped(check, good, f"{file.path}, dataset {file.dataset}")

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Return frames (row, y, x) of consecutive rows."""
        return self.read_part(rows, *_whole(self.shape))

    def read_part(self, rows: slice, y: slice, x: slice) -> NDArray:
        """Return a rectangle (row, y, x) of consecutive rows. Only the chunks that it touches are read."""
        start, stop, _ = rows.indices(self.shape[0])
        parts = [np.empty((0, y.stop - y.start, x.stop - x.start), self.dtype)]
        for number, (file, begin) in enumerate(zip(self.files, self._starts, strict=False)):
            low, high = max(start - begin, 0), min(stop - begin, file.frames)
            if low < high:
                with open_detector_file(file.path, swmr=self._swmr[number]) as opened:
                    frames = find_dataset(opened, file.dataset)
                    if frames is not None:
                        stored = StoredFrames(frames, self._checks[number])
                        parts.append(stored.read_part(slice(low, high), y, x))
        return np.concatenate(parts)


class TiledFrames:
    """Frames of an array in Tiled, for storage that this machine cannot access.

    Args:
        node: the array, declared (row, y, x) or (event, n, y, x).
        rows: number of its frames that belong to the scan.
    """

    def __init__(self, node: ArrayClient, rows: int) -> None:
        self._node, self._per_event = node, frames_per_event(node)
        self._serves_parts: bool | None = None
        self.shape: tuple[int, ...] = (rows, *node.shape[-2:])
        self.dtype: np.dtype = node.dtype

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Return frames (row, y, x) of consecutive rows."""
        return self._fetch(rows, self.shape[1:], "")

    def read_part(self, rows: slice, y: slice, x: slice) -> NDArray:
        """Return a rectangle (row, y, x) of consecutive rows. The server sends only this part if it can."""
        shape, part = (y.stop - y.start, x.stop - x.start), f",{y.start}:{y.stop},{x.start}:{x.stop}"
        if self._serves_parts is None:
            self._serves_parts = len(self._node.shape) == 3 and self._is_right(part, shape, y, x)
        return self._fetch(rows, shape, part) if self._serves_parts else self[rows][:, y, x]

    def _is_right(self, part: str, shape: tuple[int, ...], y: slice, x: slice) -> bool:
        """Return whether a part of the first frame is what the whole frame has there.

        It is not if the catalogue declares another shape than that of the file.
        """
        whole = self[0:1][:, y, x]
        try:
            return np.array_equal(self._fetch(slice(0, 1), shape, part), whole, equal_nan=whole.dtype.kind == "f")
        except FramesError:
            return False

    def _fetch(self, rows: slice, shape: tuple[int, ...], part: str) -> NDArray:
        start, stop, _ = rows.indices(self.shape[0])
        first, end = start // self._per_event, -(-max(start, stop) // self._per_event)
        try:
            frames = fetch_rows(self._node, first, end, (self._per_event, *shape), part)
            return frames.reshape(-1, *shape)[start - first * self._per_event :][: max(0, stop - start)]
        except httpx.HTTPError as error:
            raise _unreadable(self._node, error) from error


def find_frames(
    node: ArrayClient,
    views: int,
    combination: Combination | None = None,
    saturation: float | None = None,
    *,
    stored: int | None = None,
) -> tuple[FrameSource, tuple[FrameFile, ...] | None]:
    """Return the source of a run's frames, and the detector's files if this machine can access them and link to them.

    Args:
        node: array of the frames' data key.
        views: number of frames of the scan after combination.
        combination: how several frames of an event are combined; None: they are refused.
        saturation: stored value of a saturated pixel; None: the largest value of an integer type.
        stored: number of stored frames to use, the first ones; None: all.

    Raises:
        FramesError: there are fewer frames than needed, or they cannot be read.
    """
    shape = node.shape
    if len(shape) not in (3, 4):
        raise FramesError(
            "The frames of a scan must be (event, y, x).",
            got=f"{node.uri} with shape {shape}.",
            remedy="give the frames' data key as detector_image.",
        )
    source, files = _stored_frames(node, shape[0] * frames_per_event(node) if stored is None else stored)
    combined = combined_frames(source, views, combination, origin=f"events in {node.uri}", saturation=saturation)
    return combined, files if combined is source else None


def _stored_frames(node: ArrayClient, rows: int) -> tuple[FrameSource, tuple[FrameFile, ...] | None]:
    files = _visible_files(node, rows)
    if files:
        source = DetectorFiles(files)
        _check_ends(source)
        return source, files if source.linkable else None
    last = (rows - 1) // frames_per_event(node)
    try:
        fetch_once(node, 0, 1)
        fetch_once(node, last, last + 1)
    except httpx.HTTPError as error:
        raise _unreadable(node, error) from error
    return TiledFrames(node, rows), None


def _whole(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of whole frames (row, y, x)."""
    return slice(0, shape[1]), slice(0, shape[2])


def frames_per_event(node: ArrayClient) -> int:
    """Return the number of frames per row of an array (row, y, x) or (row, n, y, x)."""
    return 1 if len(node.shape) == 3 else node.shape[1]


def count_frames(node: ArrayClient) -> int:
    """Return the number of frames that exist: those in the detector's files, else those that the catalogue declares.

    Raises:
        FramesError: a file cannot be read.
    """
    declared = node.shape[0] * frames_per_event(node)
    files = _visible_files(node, declared, complete=False)
    return sum(file.frames for file in files) if files else declared


def frame_numbers(node: ArrayClient) -> NDArray | None:
    """Return (row,) the numbers that areaDetector writes beside the frames into its files; None if there are none."""
    parts = []
    for file in _visible_files(node, node.shape[0] * frames_per_event(node), complete=False):
        with open_detector_file(file.path) as opened:
            numbers = find_dataset(opened, _FRAME_NUMBERS)
            if numbers is None or (numbers.size or 0) < file.frames:
                return None
            parts.append(np.ravel(numbers[()])[: file.frames])
    return np.concatenate(parts) if parts else None


def _visible_files(node: ArrayClient, rows: int, *, complete: bool = True) -> tuple[FrameFile, ...]:
    """Return the detector's HDF5 files; empty if they have another format or this machine cannot access them.

    Args:
        node: array of the frames.
        rows: number of frames.
        complete: whether all frames must exist; otherwise those that exist are counted.
    """
    sources = node.data_sources() or []
    if len(sources) != 1 or sources[0].mimetype != "application/x-hdf5":
        return ()
    parameters: dict[str, Any] = sources[0].parameters
    if "dataset" not in parameters or parameters.get("slice"):
        return ()
    assets = sorted(sources[0].assets, key=lambda asset: asset.num or 0)
    paths = [path_from_uri(asset.data_uri) for asset in assets]
    if not paths or not all(Path(path).is_file() for path in paths):
        return ()
    files, left = [], rows
    for path in map(Path, paths):
        last = complete and path == Path(paths[-1])
        opened, frames = _open(FrameFile(path, parameters["dataset"], left if last else 0))
        with opened:
            count = left if last else min(frames.shape[0], left)
        files.append(FrameFile(path, parameters["dataset"], count))
        left -= count
    return tuple(file for file in files if file.frames or not complete)


def _check_ends(source: DetectorFiles) -> None:
    """Read the first and the last frame. A truncated file can be opened and fails only when it is read."""
    try:
        for row in (0, source.shape[0] - 1):
            source[row : row + 1]
    except OSError as error:
        raise FramesError(
            "The detector's file must contain every frame of the scan.",
            got=f"{source.files[-1].path}: {error}.",
            remedy="restore the file: it is truncated or damaged.",
        ) from error


def _open(file: FrameFile) -> tuple[h5py.File, StoredFrames]:
    opened, frames = open_frames(file.path, lambda opened: (file.dataset,), lambda opened: file.frames)
    if frames is None or frames.shape[0] < file.frames:
        opened.close()
        raise FramesError(
            "The detector's file must contain every frame of the scan, one frame per view.",
            got=f"{file.path}, dataset {file.dataset} of shape {None if frames is None else frames.shape} for "
            f"{file.frames} frames.",
            remedy="check the file: the detector stopped early, or the frames are in another dataset.",
        )
    return opened, frames


def _unreadable(node: ArrayClient, error: httpx.HTTPError) -> FramesError:
    if is_busy(error) or isinstance(error, httpx.TransportError):
        return FramesError(
            "The Tiled server must answer requests for frames.",
            got=f"{str(error).splitlines()[0]}, asked repeatedly for up to {TILED_RETRY_TIMEOUT:g} s.",
            remedy="repeat when the server is less busy, or set more seconds in TILED_RETRY_TIMEOUT.",
        )
    assets = [asset.data_uri for source in node.data_sources() or [] for asset in source.assets]
    return FramesError(
        "The Tiled server must be able to read the detector's frames.",
        got=f"{type(error).__name__} for {node.uri}, stored as {', '.join(assets)}.",
        remedy="restore the file if it is missing or damaged, add its folder to the server's readable_storage, or "
        "correct the declared shape and type with client[uid].validate().",
    )
