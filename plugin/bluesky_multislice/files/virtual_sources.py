"""Finds which pixels of a virtual dataset have a source. HDF5 silently reads fill values for all others.

Reference: HDF5 virtual dataset, https://support.hdfgroup.org/documentation/hdf5/latest/_v_d_s_t_n.html
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files.detector_files import (
    PendingFramesError,
    find_dataset,
    is_being_written,
    open_detector_file,
)
from bluesky_multislice.files.hdf5_selections import (
    Coverage,
    Product,
    intervals,
    is_unlimited,
    products_of,
    unlimited_product,
)

_DEEPEST = 16
"""Largest number of virtual datasets that link to each other in a chain."""


@dataclass(frozen=True, eq=False)
class SourceCheck:
    """What a dataset's sources lack.

    Attributes:
        unmapped: (y, x) True for pixels without a source in some frame; all False for a complete dataset.
        first_frame: index of the first frame with such a pixel.
        being_written: whether a detector writes the file or one of its sources.
    """

    unmapped: NDArray[np.bool_]
    first_frame: int = 0
    being_written: bool = False


@dataclass(frozen=True, eq=False)
class _Mapping:
    """A part of a virtual dataset and its source."""

    target: list[Product]
    file: str
    dataset: str
    source: h5py.h5s.SpaceID
    unlimited_target: h5py.h5s.SpaceID | None = None


def check_sources(dataset: h5py.Dataset, rows: int = 0, *, depth: int = 0) -> SourceCheck:
    """Check the sources of a dataset (frame, y, x) or with further axes between; complete if it is not virtual.

    Args:
        dataset: the dataset.
        rows: number of frames that were announced; a virtual dataset of unlimited length is checked up to there.
        depth: number of virtual datasets that lead to this one.

    Raises:
        FramesError: a source is missing, unreadable or smaller than the part that is mapped.
        PendingFramesError: frames are missing, and a detector is still writing.
    """
    if not dataset.is_virtual or dataset.ndim < 2:
        written = dataset.file.swmr_mode
        if written and len(dataset) < rows:
            raise _pending(dataset, len(dataset), rows)
        return SourceCheck(np.zeros(dataset.shape[-2:], bool), being_written=written)
    if depth > _DEEPEST:
        raise FramesError(
            "Virtual datasets must lead to stored frames.",
            got=f"{_DEEPEST} virtual datasets that link to each other, the last in {dataset.file.filename}.",
            remedy="correct the files: a virtual dataset links to itself.",
        )
    return _check_virtual(dataset, rows, depth)


def source_files(dataset: h5py.Dataset) -> list[Path]:
    """Return the files to which a dataset is linked directly; its own file if it is not virtual."""
    own = Path(dataset.file.filename)
    if not dataset.is_virtual:
        return [own]
    mappings = _mappings(dataset, max(dataset.shape[0], 1))
    return list(dict.fromkeys(_source_path(own, mapping.file) for mapping in mappings))


def _check_virtual(dataset: h5py.Dataset, rows: int, depth: int) -> SourceCheck:
    own, unlimited = Path(dataset.file.filename), None in (dataset.maxshape or ())[:1]
    shape = (max(rows, dataset.shape[0], 1) if unlimited else dataset.shape[0], *dataset.shape[1:])
    coverage, being_written = Coverage(shape), dataset.file.swmr_mode
    by_file: dict[Path, list[_Mapping]] = {}
    for mapping in _mappings(dataset, shape[0]):
        by_file.setdefault(_source_path(own, mapping.file), []).append(mapping)
    for path, mappings in by_file.items():
        if path == own:
            being_written |= _add_sources(coverage, dataset.file, mappings, depth)
            continue
        try:
            being_written |= _check_file(coverage, path, mappings, depth)
        except OSError as error:
            if being_written and isinstance(error, FileNotFoundError):
                raise _pending(dataset, dataset.shape[0], shape[0]) from error
            raise _unreadable(path, mappings[0].dataset, error) from error
    unmapped, first = coverage.unmapped()
    if being_written and unlimited and unmapped.all():
        raise _pending(dataset, first, shape[0])
    return SourceCheck(unmapped, first, being_written)


def _check_file(
    coverage: Coverage, path: Path, mappings: Sequence[_Mapping], depth: int, *, swmr: bool = False
) -> bool:
    """Add the parts whose source is in another file; return whether a source is being written."""
    with open_detector_file(path, swmr=swmr) as file:
        try:
            return _add_sources(coverage, file, mappings, depth)
        except RuntimeError as error:  # HDF5 cannot tell the length of an unlimited virtual dataset in this file.
            if swmr or not is_being_written(error):
                raise _unreadable(path, mappings[0].dataset, error) from error
    return _check_file(coverage, path, mappings, depth, swmr=True)


def _add_sources(coverage: Coverage, file: h5py.File, mappings: Sequence[_Mapping], depth: int) -> bool:
    """Add the parts whose source is in a file; return whether a source is being written."""
    checked: dict[str, tuple[h5py.Dataset, SourceCheck]] = {}
    for mapping in mappings:
        if mapping.dataset not in checked:
            try:
                source = find_dataset(file, mapping.dataset)
            except (OSError, KeyError) as error:
                raise _unreadable(Path(file.filename), mapping.dataset, error) from error
            if source is None:
                raise _unreadable(Path(file.filename), mapping.dataset, KeyError("no such dataset"))
            checked[mapping.dataset] = source, check_sources(source, depth=depth + 1)
        source, check = checked[mapping.dataset]
        target = mapping.target
        if mapping.unlimited_target is not None:
            _check_rank(mapping, source)
            target = [unlimited_product(mapping.unlimited_target, mapping.source, source.shape, coverage.shape)]
        elif not _is_complete(mapping, source):
            raise _pending(source, len(source), _needed(mapping)) if check.being_written else _smaller(mapping, source)
        coverage.products += target
        if check.unmapped.any():
            _add_holes(coverage, target, check.unmapped)
    return any(check.being_written for _, check in checked.values())


def _add_holes(coverage: Coverage, target: list[Product], unmapped: NDArray[np.bool_]) -> None:
    """Pass the holes of a nested virtual dataset on: pixel by pixel for whole frames, otherwise for the whole part."""
    shape = coverage.shape[-2:]
    if coverage.holes is None:
        coverage.holes = np.zeros(shape, bool)
    if unmapped.shape == shape:
        coverage.holes |= unmapped
        return
    for product in target:
        low, high = (np.array([function(axis) for axis in product[-2:]]) for function in (np.min, np.max))
        coverage.holes[low[0] : high[0], low[1] : high[1]] = True


def _mappings(dataset: h5py.Dataset, rows: int) -> Iterator[_Mapping]:
    made = dataset.id.get_create_plist()
    for number in range(made.get_virtual_count()):
        target = made.get_virtual_vspace(number)
        names = made.get_virtual_filename(number), made.get_virtual_dsetname(number)
        try:
            source = made.get_virtual_srcspace(number)
        except RuntimeError:  # HDF5 cannot return an empty selection: nothing is mapped.
            continue
        if not is_unlimited(target):
            yield _Mapping(products_of(target, dataset.shape), *names, source)
        elif is_unlimited(source):
            yield _Mapping([], *names, source, target)
        else:
            yield from _blocks(_Mapping([], *names, source, target), dataset.shape, rows)


def _blocks(mapping: _Mapping, shape: tuple[int, ...], rows: int) -> Iterator[_Mapping]:
    """Return the mappings of sources whose names contain the number of the block (%b)."""
    if mapping.unlimited_target is None:
        return
    regular = list(zip(*mapping.unlimited_target.get_regular_hyperslab(), strict=True))
    axis = next(n for n, (_, _, count, _) in enumerate(regular) if count == h5py.h5s.UNLIMITED)
    first, step = int(regular[axis][0]), int(regular[axis][1])
    part = [
        intervals(int(start), int(stride), 1 if n == axis else int(count), int(block))
        for n, (start, stride, count, block) in enumerate(regular)
    ]
    for number in range(math.ceil(((rows if axis == 0 else shape[axis]) - first) / step)):
        moved = tuple(bounds + (number * step if n == axis else 0) for n, bounds in enumerate(part))
        file, dataset = _with_block(mapping.file, number), _with_block(mapping.dataset, number)
        yield _Mapping([moved], file, dataset, mapping.source)


def _with_block(name: str, number: int) -> str:
    return "%".join(part.replace("%b", str(number)) for part in name.split("%%"))


def _check_rank(mapping: _Mapping, source: h5py.Dataset) -> None:
    if len(mapping.source.get_simple_extent_dims()) != source.ndim:
        raise _smaller(mapping, source)


def _needed(mapping: _Mapping) -> int:
    """Return the number of frames that a source must have."""
    if mapping.source.get_select_type() == h5py.h5s.SEL_ALL:
        return sum(int((product[0][:, 1] - product[0][:, 0]).sum()) for product in mapping.target)
    return int(mapping.source.get_select_bounds()[1][0]) + 1


def _is_complete(mapping: _Mapping, source: h5py.Dataset) -> bool:
    """Return whether a source has all values that are mapped."""
    kind = mapping.source.get_select_type()
    if kind == h5py.h5s.SEL_ALL:
        sizes = [[int((axis[:, 1] - axis[:, 0]).sum()) for axis in product] for product in mapping.target]
        return source.size == sum(math.prod(size) for size in sizes)
    if kind == h5py.h5s.SEL_NONE:
        return True
    _, last = mapping.source.get_select_bounds()
    return len(last) == source.ndim and all(at < n for at, n in zip(last, source.shape, strict=True))


def _source_path(own: Path, name: str) -> Path:
    """Return the path of a source file, searched like HDF5 does: prefix, folder of the linking file, working folder."""
    if name == ".":
        return own
    folders = [own.parent, own.resolve().parent, Path()]
    prefixes = [part for part in os.environ.get("HDF5_VDS_PREFIX", "").split(":") if part]
    before = [Path(part.replace("${ORIGIN}", str(own.parent))) for part in prefixes]
    # HDF5 searches an absolute path that does not exist by its last component.
    names = [name, Path(name).name] if Path(name).is_absolute() else [name]
    candidates = [folder / part for part in names for folder in (*before, *folders)]
    found = next((path for path in candidates if path.is_file()), own.parent / name)
    return own if found.exists() and found.samefile(own) else found.resolve()


def _unreadable(path: Path, dataset: str, error: Exception) -> FramesError:
    return FramesError(
        "The detector's file must be readable at the path that the scan gives.",
        got=f"{path}, dataset {dataset}: {error}.",
        remedy="restore the file, or mount the storage that holds it.",
    )


def _smaller(mapping: _Mapping, source: h5py.Dataset) -> FramesError:
    return FramesError(
        "The detector's file must contain every frame of the scan.",
        got=f"{source.file.filename}, dataset {mapping.dataset} of shape {source.shape}, which is less than the scan's "
        "virtual dataset maps.",
        remedy="check the file: the detector stopped early, or the file was truncated.",
    )


def _pending(dataset: h5py.Dataset, found: int, rows: int) -> PendingFramesError:
    return PendingFramesError(
        "Every announced frame must be in the detector's file.",
        got=f"{found} of {rows} frames in {dataset.file.filename}, dataset {dataset.name}.",
        remedy="wait until the detector has written them.",
    )
