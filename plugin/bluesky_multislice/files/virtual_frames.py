"""Links to frames in the detector's files: HDF5 virtual datasets instead of copies."""

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
        frames: number of its frames that belong to the scan, from the first on.
    """

    path: Path
    dataset: str
    frames: int


def write_virtual(file: h5py.File, name: str, files: Sequence[FrameFile], order: NDArray[np.intp]) -> None:
    """Create a virtual dataset (row, y, x) whose row i is row ``order[i]`` of the concatenated files.

    Args:
        file: file to write to.
        name: name of the dataset.
        files: the detector's files.
        order: (row,) indices into the concatenated frames.

    Raises:
        FramesError: a file is missing, lacks the dataset or has too few frames.
    """
    shapes = [_shape(entry) for entry in files]
    starts = np.cumsum([0, *(entry.frames for entry in files)])
    with h5py.File(files[0].path) as first:
        dtype = first[files[0].dataset].dtype  # pyright: ignore[reportAttributeAccessIssue]
    layout = h5py.VirtualLayout((len(order), *shapes[0][-2:]), dtype)
    file_of_row = np.searchsorted(starts, order, side="right") - 1
    breaks = np.flatnonzero((np.diff(order) != 1) | (np.diff(file_of_row) != 0)) + 1
    for block in np.split(np.arange(len(order)), breaks):
        number = int(file_of_row[block[0]])
        entry, shape = files[number], shapes[number]
        start = int(order[block[0]] - starts[number])
        source = h5py.VirtualSource(str(entry.path.resolve()), entry.dataset, shape)
        rows = source[start : start + len(block)] if len(shape) == 3 else source[start : start + len(block), 0]
        layout[int(block[0]) : int(block[-1]) + 1] = rows
    file.create_virtual_dataset(name, layout)


def check_virtual_sources(dataset: h5py.Dataset) -> None:
    """Check the source files of a virtual dataset. HDF5 silently reads zeros if a file is missing or truncated.

    Raises:
        FramesError: a file is missing, lacks the dataset or is shorter than the mapped range.
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
            "The detector's file must be readable at the path that the scan gives.",
            got=f"{entry.path}, dataset {entry.dataset}: {error}.",
            remedy="restore the file, or mount the storage that holds it.",
        ) from error
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != 1) or shape[0] < entry.frames:
        raise FramesError(
            "The detector's file must contain every frame of the scan, one frame per view.",
            got=f"{entry.path}, dataset {entry.dataset} of shape {shape} for {entry.frames} frames.",
            remedy="check the file: the detector stopped early, or stored several frames per view.",
        )
    return shape


def frame_files(path: Path) -> list[Path]:
    """Return the files that contain the frames of an interchange file: the linked files, or the file itself."""
    with h5py.File(path) as file:
        data = file["entry_1/instrument_1/detector_1/data"]
        if not isinstance(data, h5py.Dataset) or not data.is_virtual:
            return [path]
        names = dict.fromkeys(source.file_name for source in data.virtual_sources())
    return [path if name == "." else (path.parent / name).resolve() for name in names]
