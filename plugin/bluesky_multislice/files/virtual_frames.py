"""Frames linked where the detector wrote them: an HDF5 virtual dataset instead of a copy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError


@dataclass(frozen=True)
class FrameFile:
    """A detector's file.

    Attributes:
        path: the HDF5 file.
        dataset: name of a dataset (frame, y, x) or (frame, 1, y, x) in it.
        frames: how many of its frames belong to the scan.
    """

    path: Path
    dataset: str
    frames: int


def write_virtual(file: h5py.File, name: str, files: Sequence[FrameFile], order: NDArray[np.intp]) -> None:
    """Make a virtual dataset (row, y, x) whose row i is row ``order[i]`` of the files, one after the other.

    Args:
        file: open for writing.
        name: name of the dataset.
        files: the detector's files.
        order: (row,) which of their frames, in which order.

    Raises:
        FramesError: a file is missing, lacks the dataset or has fewer frames than it should.
    """
    shapes = [_shape(entry) for entry in files]
    starts = np.cumsum([0, *(entry.frames for entry in files)])
    with h5py.File(files[0].path) as first:
        dtype = first[files[0].dataset].dtype  # pyright: ignore[reportAttributeAccessIssue]
    layout = h5py.VirtualLayout((len(order), *shapes[0][-2:]), dtype)
    which = np.searchsorted(starts, order, side="right") - 1
    breaks = np.flatnonzero((np.diff(order) != 1) | (np.diff(which) != 0)) + 1
    for run in np.split(np.arange(len(order)), breaks):
        which_file = int(which[run[0]])
        entry, shape = files[which_file], shapes[which_file]
        start = int(order[run[0]] - starts[which_file])
        source = h5py.VirtualSource(str(entry.path.resolve()), entry.dataset, shape)
        rows = source[start : start + len(run)] if len(shape) == 3 else source[start : start + len(run), 0]
        layout[int(run[0]) : int(run[-1]) + 1] = rows
    file.create_virtual_dataset(name, layout)


def check_virtual_sources(dataset: h5py.Dataset) -> None:
    """Refuse a virtual dataset whose files are gone or cut; HDF5 itself would read zeros.

    Raises:
        FramesError: a file is missing, lacks the dataset or is shorter than what is mapped from it.
    """
    if not dataset.is_virtual:
        return
    folder = Path(dataset.file.filename).parent
    for source in dataset.virtual_sources():
        last = source.src_space.get_select_bounds()[1][0]
        name = dataset.file.filename if source.file_name == "." else source.file_name
        _shape(FrameFile(folder / name, source.dset_name, int(last) + 1))


def _shape(entry: FrameFile) -> tuple[int, ...]:
    try:
        with h5py.File(entry.path) as file:
            shape = file[entry.dataset].shape  # pyright: ignore[reportAttributeAccessIssue]
    except (OSError, KeyError) as error:
        raise FramesError(
            "The detector's file must be readable where the scan says it lies.",
            got=f"{entry.path}, dataset {entry.dataset}: {error}.",
            remedy="restore the file, or mount the storage that holds it.",
        ) from error
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != 1) or shape[0] < entry.frames:
        raise FramesError(
            "The detector's file must hold every frame of the scan, one frame a view.",
            got=f"{entry.path}, dataset {entry.dataset} of shape {shape} for {entry.frames} frames.",
            remedy="the detector stopped early or averages differently: check its file.",
        )
    return shape


def frame_files(path: Path) -> list[Path]:
    """Return the files whose bytes are an interchange file's frames: those it links to, or itself."""
    with h5py.File(path) as file:
        data = file["entry_1/instrument_1/detector_1/data"]
        if not isinstance(data, h5py.Dataset) or not data.is_virtual:
            return [path]
        names = dict.fromkeys(source.file_name for source in data.virtual_sources())
    return [path if name == "." else (path.parent / name).resolve() for name in names]
