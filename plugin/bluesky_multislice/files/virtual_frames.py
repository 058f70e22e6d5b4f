"""Links to frames in the detector's files: HDF5 virtual datasets instead of copies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files.detector_files import open_detector_file
from bluesky_multislice.files.stored_frames import StoredFrames
from bluesky_multislice.files.virtual_sources import source_files
from bluesky_multislice.measurement import Scan


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
    shapes, dtypes = zip(*(_shape(entry) for entry in files), strict=True)
    starts = np.cumsum([0, *(entry.frames for entry in files)])
    layout = h5py.VirtualLayout((len(order), *shapes[0][-2:]), dtypes[0])
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


def linked_files(scan: Scan) -> list[FrameFile] | None:
    """Return the files to which ``write_scan`` can link the frames of a scan that was read; None: copy the frames."""
    source = scan.frames.source
    if not isinstance(source, StoredFrames) or not source.linkable:
        return None
    return [FrameFile(Path(source.dataset.file.filename), str(source.dataset.name), source.shape[0])]


def frame_files(path: Path) -> list[Path]:
    """Return the files that contain the frames of an interchange file: the linked files, or the file itself."""
    with open_detector_file(path) as file:
        data = file["entry_1/instrument_1/detector_1/data"]
        return source_files(data) if isinstance(data, h5py.Dataset) else [path]


def _shape(entry: FrameFile) -> tuple[tuple[int, ...], np.dtype]:
    try:
        with open_detector_file(entry.path) as file:
            dataset = file[entry.dataset]
            shape, dtype = dataset.shape, dataset.dtype  # pyright: ignore[reportAttributeAccessIssue]
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
    return shape, dtype
