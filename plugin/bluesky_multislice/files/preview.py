"""Preview images of a volume: central slices in 8-bit grey, small enough for a web page."""

import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MAX_WIDTH = 512
_MIN_WIDTH = 256
"""Web pages show the image without scaling, so small images are enlarged."""


def preview(delta: NDArray | h5py.Dataset) -> NDArray[np.uint8]:
    """Return the central slices (y, x), (z, x) and (z, y) of δ, stacked vertically, 8 bit, at most 512 pixels wide.

    Args:
        delta: (z, y, x), an array, or a dataset from which only these slices are read.
    """
    nz, ny, nx = delta.shape
    step = -(-max(nz, ny, nx) // _MAX_WIDTH)
    return _stacked([delta[nz // 2, ::step, ::step], delta[::step, ny // 2, ::step], delta[::step, ::step, nx // 2]])


def write_preview(path: Path, slices: Sequence[NDArray]) -> None:
    """Write slices of a volume, stacked vertically, as a PNG file. The file is replaced atomically.

    Small slices are enlarged by an integer factor.

    Args:
        path: the PNG file.
        slices: two-dimensional arrays; black and white are the minimum and maximum of the first one.
    """
    step = -(-max(max(plane.shape) for plane in slices) // _MAX_WIDTH)
    grey = _stacked([plane[::step, ::step] for plane in slices])
    zoom = max(1, _MIN_WIDTH // grey.shape[1])
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        Image.fromarray(grey.repeat(zoom, axis=0).repeat(zoom, axis=1)).save(file, format="png")
    os.replace(part, path)


def _stacked(slices: Sequence[NDArray]) -> NDArray[np.uint8]:
    slices = [np.nan_to_num(plane) for plane in slices]
    width = max(plane.shape[1] for plane in slices)
    low, high = float(slices[0].min()), float(slices[0].max())
    planes = []
    for plane in slices:
        grey = np.clip((plane - low) / ((high - low) or 1.0), 0, 1) * 255
        planes.append(np.pad(grey.astype(np.uint8), ((0, 2), (0, width - plane.shape[1]))))
    return np.concatenate(planes)
