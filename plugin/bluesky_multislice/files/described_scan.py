"""Reads a scan of TIFF or NumPy files with the help of its description: a TOML file, or the keys of a ``.npz``."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError, MultisliceError, ScanError
from bluesky_multislice.files.described_lookup import DescribedLookup
from bluesky_multislice.files.file_series import series_files
from bluesky_multislice.files.listed_values import numpy_frames, read_listed
from bluesky_multislice.files.mask_file import read_mask, recipe_mask
from bluesky_multislice.files.scan_inspection import (
    ScanInspection,
    inspect_lookup,
    partial_frames,
)
from bluesky_multislice.files.scan_of_values import paired_frames, probe_modes, scan_of_values
from bluesky_multislice.files.tiff_frames import TiffFrames
from bluesky_multislice.measurement import (
    CombinedFrames,
    Frames,
    FrameSource,
    JoinedFrames,
    Scan,
    good_pixels,
    mask_bad_pixels,
)
from bluesky_multislice.recipe import Instrument, ScanValues

_KINDS = {"darks": 2, "flats": 1}
"""Field → NXtomo's image key of its frames."""


def is_description(path: Path) -> bool:
    """Return whether a file is the description of a scan, by its name."""
    return path.suffix.lower() == ".toml" and path.is_file()


def is_npz(path: Path) -> bool:
    """Return whether a file is a ``.npz``, by its name."""
    return path.suffix.lower() == ".npz" and path.is_file()


def read_described(path: Path, values: ScanValues, instrument: Instrument | None) -> Scan:
    """Read a scan by its description. Frames stay in their files until they are indexed.

    Args:
        path: the description: a TOML file, or a ``.npz``.
        values: values that override those of the description.
        instrument: instrument file, of which fixed values are used that the description lacks.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: files with frames are missing or damaged, or frames do not pair with the values.
    """
    lookup = DescribedLookup(path, values, instrument)
    source = _paired(lookup, _sample(lookup))
    mask = _mask(lookup)
    scan = scan_of_values(lookup, source, mask, _probe(lookup), saturation=_saturation(source))
    return mask_bad_pixels(scan)


def inspect_described(path: Path, values: ScanValues, instrument: Instrument | None) -> ScanInspection:
    """Return what a scan by its description contains and lacks; the arguments are those of ``read_described``.

    Raises:
        ScanError: the description cannot be read.
    """
    errors: dict[str, MultisliceError] = {}
    paired, lookup = (DescribedLookup(path, values, instrument) for _ in range(2))
    frames = _frames(paired, errors)
    if paired.frame_rows is not None:
        lookup.pair(paired.frame_rows)
    lookup.views, lookup.calibration_key = paired.views, paired.calibration_key
    lookup.find("frames")
    reports = inspect_lookup(lookup, frames, errors, None)
    inspection = ScanInspection(str(path), reports, frames, warnings=tuple(lookup.warnings))
    return inspection.with_scan(lambda: read_described(path, values, instrument))


def _frames(lookup: DescribedLookup, errors: dict[str, MultisliceError]) -> Frames | None:
    """Return the frames as far as they can be used, and add the errors of frames and mask."""
    mask, source = None, None
    try:
        mask = _mask(lookup)
    except MultisliceError as error:
        errors["mask"] = error
    try:
        source = _sample(lookup)
        return partial_frames(_paired(lookup, source), lookup, mask)
    except FramesError as error:
        errors["frames"] = error
    except ScanError as error:  # The report of the value tells it, unless it is that of the frames.
        if source is None:
            errors["frames"] = error
    return None


def _sample(lookup: DescribedLookup) -> FrameSource:
    """Return the stored frames of the sample.

    Raises:
        ScanError: the description names none.
        FramesError: they cannot be read.
    """
    found = lookup.require("frames")
    return _open(str(found.value), lookup.path.parent)


def _paired(lookup: DescribedLookup, sample: FrameSource) -> FrameSource:
    """Return the frames of the sample, one per view, followed by darks and flats. The look-up is told their rows.

    Raises:
        FramesError: darks or flats cannot be read, have another size, or belong to single frames of a sum.
    """
    sources = [paired_frames(lookup, sample)]
    lookup.views, key = sources[0].shape[0], list[int]()
    for name, number in _KINDS.items():
        found = lookup.find(name)
        if found is None:
            continue
        sources.append(_open(str(found.value), lookup.path.parent))
        key += [number] * sources[-1].shape[0]
    if key and isinstance(sources[0], CombinedFrames) and lookup.combination == "sum":
        raise FramesError(
            "Summed frames need darks and flats of the same number of exposures.",
            got=f"darks or flats of single exposures in {lookup.path}, with frames_per_view = sum.",
            remedy="use frames_per_view = mean.",
        )
    _check_pairing(lookup, sample, views=lookup.views, rows=lookup.views + len(key))
    lookup.calibration_key = np.array(key, np.intp)
    return JoinedFrames(sources) if key else sources[0]


def _check_pairing(lookup: DescribedLookup, sample: FrameSource, *, views: int, rows: int) -> None:
    """Check that there are as many frames as values; ``rows`` counts darks and flats too."""
    values = lookup.announced_frames()
    if values in (0, views, rows):
        return
    several = sample.shape[0] // values
    raise FramesError(
        "Every frame needs its values.",
        got=f"{sample.shape[0]} frames of the sample and {values} values per frame in {lookup.path}.",
        remedy=f"set frames_per_view to mean, sum or stack if {several} consecutive frames belong to each value."
        if several > 1 and sample.shape[0] % values == 0
        else "restore missing files, leave out frames without values, or correct the tables of values.",
    )


def _saturation(source: FrameSource) -> float | None:
    """Return the saturation of combined frames in front of darks and flats; None if the source tells it itself."""
    first = source.sources[0] if isinstance(source, JoinedFrames) else None
    return first.saturation if isinstance(first, CombinedFrames) else None


def _open(place: str, folder: Path) -> FrameSource:
    """Return the frames at a place of the description.

    Raises:
        FramesError: they cannot be read.
    """
    name, _, key = place.partition("::")
    suffix = Path(name).suffix.lower()
    if suffix in (".tif", ".tiff"):
        return TiffFrames(series_files(name, folder))
    if suffix in (".npy", ".npz") and (suffix == ".npz") == bool(key):
        return numpy_frames(folder / Path(name).expanduser(), key or None)
    raise FramesError(
        "Frames of a described scan must be TIFF or NumPy files.",
        got=f"{place}.",
        remedy="name .tif files, a .npy, or FILE.npz::KEY; an HDF5 file needs no description but an instrument file.",
    )


def _mask(lookup: DescribedLookup) -> NDArray[np.bool_] | None:
    """Return (y, x) True for the good pixels of the recipe's or the description's mask; None if there is none.

    Raises:
        FramesError: the mask cannot be read, is no mask, or excludes most pixels.
    """
    given = recipe_mask(lookup.values, lookup.sources)
    if given is not None:
        return given
    found = lookup.find("mask")
    if found is None:
        return None
    place, folder = str(found.value), lookup.path.parent
    packed = Path(place.partition("::")[0]).suffix.lower() == ".npz"
    stored = read_listed(place, folder) if packed else read_mask(str(folder / Path(place).expanduser()))
    return good_pixels(stored, origin=f"{lookup.path}, {found.source}", sense=lookup.values.mask_sense)


def _probe(lookup: DescribedLookup) -> NDArray[np.complex64] | None:
    found = lookup.find("probe")
    return None if found is None else probe_modes(read_listed(str(found.value), lookup.path.parent), found.source)
