"""Reads a detector mask from a file of its own: NumPy, TIFF or PNG, EDF, HDF5."""

import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import good_pixels
from bluesky_multislice.recipe import ScanValues

PIXELS_CHECKED = "pixels_checked"
"""Attribute of a mask that includes all bad pixels that were found in the frames; 0 means good in it."""

_EDF_TYPES = {
    "signedbyte": "i1",
    "unsignedbyte": "u1",
    "signedshort": "i2",
    "unsignedshort": "u2",
    "signedinteger": "i4",
    "unsignedinteger": "u4",
    "signedlong": "i4",
    "unsignedlong": "u4",
    "floatvalue": "f4",
    "float": "f4",
    "doublevalue": "f8",
}
"""EDF's data types, https://www.silx.org/doc/fabio/latest/edf.html"""


def read_mask(name: str) -> NDArray:
    """Return the values of a mask (y, x).

    Args:
        name: path of a file .npy, .tif, .tiff, .png or .edf, or of an HDF5 file followed by ``::`` and the dataset.

    Raises:
        FramesError: the file is missing, damaged or of another format.
    """
    path, _, dataset = name.partition("::")
    try:
        return _read(Path(path), dataset)
    except (OSError, KeyError, ValueError, SyntaxError, AttributeError) as error:
        raise FramesError(
            "A mask file must be a readable .npy, .tif, .png, .edf or HDF5 file.",
            got=f"{name}: {error}.",
            remedy="correct scan.mask; for HDF5 give FILE.h5::/path/of/the/mask.",
        ) from error


def recipe_mask(values: ScanValues, sources: dict[str, str]) -> NDArray[np.bool_] | None:
    """Return (y, x) True for good pixels, from the mask file of the recipe; None if it names none.

    Args:
        values: the recipe's values.
        sources: field → source of its value, to which that of the mask is added.

    Raises:
        FramesError: the file cannot be read, or excludes most pixels.
    """
    if values.mask is None:
        return None
    sources["mask"] = f"recipe scan.mask: {values.mask}"
    return good_pixels(read_mask(values.mask), origin=values.mask, sense=values.mask_sense)


def _read(path: Path, dataset: str) -> NDArray:
    suffix = path.suffix.lower()
    if dataset:
        with h5py.File(path, "r") as file:
            found = file.get(dataset)
            if not isinstance(found, h5py.Dataset):
                raise KeyError(f"no dataset {dataset}")
            return np.asarray(found[()])
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix in (".tif", ".tiff", ".png"):
        from PIL import Image

        with Image.open(path) as image:
            return np.asarray(image)
    if suffix == ".edf":
        return _read_edf(path.read_bytes())
    raise ValueError(f"unknown format {suffix or 'without a suffix'}")


def _read_edf(content: bytes) -> NDArray:
    """Return the first image of an EDF file: a text header in braces, padded to whole blocks, and the pixels."""
    end = content.index(b"}") + 1
    end += 1 if content[end : end + 1] == b"\n" else 0
    pairs = re.findall(r"([^\s;=]+)\s*=\s*([^;]*?)\s*;", content[:end].decode("ascii", "replace"))
    header = {key.lower(): value.lower() for key, value in pairs}
    order = ">" if header.get("byteorder") == "highbytefirst" else "<"
    columns, rows = int(header["dim_1"]), int(header["dim_2"])
    return np.frombuffer(content, order + _EDF_TYPES[header["datatype"]], rows * columns, end).reshape(rows, columns)
