"""Frames in a dataset of an HDF5 file, complete and readable.

Shapes: the dataset is (row, y, x), (row, 1, y, x) or (view, n, y, x); ``StoredFrames`` is (row, y, x), in which the n
frames of a view are consecutive.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that detectors use)
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files.detector_files import (
    find_dataset,
    is_being_written,
    open_detector_file,
    wait_for_frames,
)
from bluesky_multislice.files.virtual_sources import SourceCheck, check_sources


class StoredFrames:
    """The frames of a dataset.

    Args:
        dataset: (row, y, x) or (view, n, y, x).
        check: what its sources lack.

    Attributes:
        per_view: number n of frames per view.

    Raises:
        FramesError: the dataset has another shape.
    """

    def __init__(self, dataset: h5py.Dataset, check: SourceCheck) -> None:
        shape = dataset.shape
        if len(shape) not in (3, 4):
            raise FramesError(
                "Frames must be an array (view, y, x).",
                got=f"shape {shape} in {dataset.file.filename}, dataset {dataset.name}.",
                remedy="select another dataset.",
            )
        self.dataset, self.check = dataset, check
        self.per_view = 1 if len(shape) == 3 else shape[1]
        self.shape: tuple[int, ...] = (shape[0] * self.per_view, *shape[-2:])
        self.dtype: np.dtype = dataset.dtype

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Return frames (row, y, x) of consecutive rows."""
        return self.read_part(rows, slice(0, self.shape[1]), slice(0, self.shape[2]))

    def read_part(self, rows: slice, y: slice, x: slice) -> NDArray:
        """Return a rectangle (row, y, x) of consecutive rows. Only the chunks that it touches are read."""
        start, stop, _ = rows.indices(self.shape[0])
        first, end = start // self.per_view, -(-stop // self.per_view)
        stored = self.dataset[first:end, ..., y, x].reshape(-1, y.stop - y.start, x.stop - x.start)
        return stored[start - first * self.per_view :][: max(0, stop - start)]

    @property
    def linkable(self) -> bool:
        """Whether other files can link to the dataset. HDF5 finds raw files with relative names in one folder only."""
        return self.per_view == 1 and all(Path(name).is_absolute() for name, _, _ in self.dataset.external or ())

    def check_mask(self, good: NDArray[np.bool_] | None) -> None:
        """Check that all good pixels have a source; see ``check_mapped``."""
        check_mapped(self.check, good, f"{self.dataset.file.filename}, dataset {self.dataset.name}")


def check_mapped(check: SourceCheck, good: NDArray[np.bool_] | None, origin: str) -> None:
    """Check that all good pixels of a dataset have a source.

    Args:
        check: what its sources lack.
        good: (y, x) True for good pixels; None: all pixels are good.
        origin: file and dataset.

    Raises:
        FramesError: a good pixel is mapped to no source, so that HDF5 would read a fill value.
    """
    lost = check.unmapped if good is None or good.shape != check.unmapped.shape else check.unmapped & good
    if lost.any():
        raise FramesError(
            "Every good pixel of a virtual dataset must be mapped to stored frames.",
            got=f"{int(lost.sum())} of {lost.size} pixels that are not mapped, the first in frame {check.first_frame} "
            f"of {origin}.",
            remedy="correct the virtual dataset, whose missing values HDF5 reads as fill values, or exclude gaps with "
            "the mask.",
        )


def open_frames(
    path: Path, places: Callable[[h5py.File], Iterable[str]], announced: Callable[[h5py.File], int]
) -> tuple[h5py.File, StoredFrames | None]:
    """Open a file and its frames. Waits for frames that a detector is still writing.

    Args:
        path: the file.
        places: file → names of datasets; the first that exists contains the frames.
        announced: file → number of frames that it announces, for example by the number of positions.

    Returns:
        The open file, and its frames; None if it has none.

    Raises:
        FramesError: the file or a source of its frames is missing, unreadable or too short.
    """
    return wait_for_frames(lambda: _open_once(path, places, announced))


def _open_once(
    path: Path,
    places: Callable[[h5py.File], Iterable[str]],
    announced: Callable[[h5py.File], int],
    *,
    swmr: bool = False,
) -> tuple[h5py.File, StoredFrames | None]:
    file = _open(path, swmr=swmr)
    try:
        dataset = next((found for place in places(file) if (found := find_dataset(file, place)) is not None), None)
        if dataset is None or not dataset.shape:
            return file, None
        check = check_sources(dataset, announced(file))
        if swmr or not check.being_written:
            return file, StoredFrames(dataset, check)
    except RuntimeError as error:  # HDF5 cannot tell the length of an unlimited virtual dataset.
        file.close()
        if swmr or not is_being_written(error):
            raise FramesError(
                "The sources of a virtual dataset must be readable.",
                got=f"{path}: {error}.",
                remedy="restore the files to which it is linked, or mount their storage.",
            ) from error
    except BaseException:
        file.close()
        raise
    # HDF5 opens the sources of a virtual dataset like the file that links to them.
    file.close()
    return _open_once(path, places, announced, swmr=True)


def _open(path: Path, *, swmr: bool) -> h5py.File:
    try:
        return open_detector_file(path, swmr=swmr)
    except OSError as error:
        raise FramesError(
            "A file with frames must be readable HDF5.",
            got=f"{path}: {error}.",
            remedy="check the path; restore the file if it is missing or damaged, or mount its storage.",
        ) from error
