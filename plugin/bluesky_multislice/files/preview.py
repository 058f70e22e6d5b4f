"""A picture of a volume: its central slices, 8 bits, small enough for a page."""

import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WIDEST = 512
_NARROWEST = 256
"""Pages show a picture in its own pixels."""


def preview(delta: NDArray | h5py.Dataset) -> NDArray[np.uint8]:
    """Return the central slices (y, x), (z, x) and (z, y) of δ one above the other, 8 bits, at most 512 pixels wide.

    Args:
        delta: (z, y, x), an array or a dataset of which only these slices are read.
    """
    nz, ny, nx = delta.shape
    step = -(-max(nz, ny, nx) // _WIDEST)
    return _stacked([delta[nz // 2, ::step, ::step], delta[::step, ny // 2, ::step], delta[::step, ::step, nx // 2]])


def write_preview(path: Path, slices: Sequence[NDArray]) -> None:
    """Write slices of a volume, one above the other, as a PNG that readers see whole or not at all.

    Small ones are enlarged a whole number of times.

    Args:
        path: the picture.
        slices: arrays of two dimensions; the first one's least and largest value are black and white.
    """
    step = -(-max(max(plane.shape) for plane in slices) // _WIDEST)
    grey = _stacked([plane[::step, ::step] for plane in slices])
    times = max(1, _NARROWEST // grey.shape[1])
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        Image.fromarray(grey.repeat(times, axis=0).repeat(times, axis=1)).save(file, format="png")
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
