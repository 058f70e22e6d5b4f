"""The list of arrays that a result contains. Result file, Tiled and reference page are made from it."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.extensions import with_extensions
from bluesky_multislice.files.preview import preview
from bluesky_multislice.reconstruction import Reconstruction

GROUP = "bluesky_multislice.result_arrays"
"""Entry point group for a package's ``ResultArray``."""


VIEWS, VIEW_COLUMNS = "views", ("angle_rad", "distance_m", "y_m", "x_m")
"""Table of the views, and its columns."""


@dataclass(frozen=True)
class ResultArray:
    """An array of the result file, which is published in Tiled under the same name.

    Attributes:
        name: its name.
        axes: names of its axes. An array (z, y, x) gets the attributes of the volume's grid.
        unit: its unit, which becomes the attribute ``units``; empty: none.
        description: what it contains, for the reference page.
        values: returns the array of a reconstruction; of δ and β, the rows of this rank. Only rank 0 calls it.
        required: whether a result without the array is refused when it is published.
    """

    name: str
    axes: tuple[str, ...]
    unit: str
    description: str
    values: Callable[[Reconstruction], NDArray]
    required: bool = True

    @property
    def is_volume(self) -> bool:
        """Whether the array is sampled on the volume's grid."""
        return self.axes == ("z", "y", "x")


@dataclass(frozen=True)
class ResultTable:
    """A group of columns of the result file, which is published in Tiled as a table.

    Attributes:
        name: its name.
        axis: name of the axis of its columns.
        columns: names of its columns.
        description: what it contains, for the reference page.
        values: returns the columns of a reconstruction; None if it has no such table.
        required: whether every reconstruction has the table.
    """

    name: str
    axis: str
    columns: tuple[str, ...]
    description: str
    values: Callable[[Reconstruction], Mapping[str, NDArray] | None]
    required: bool = True


@dataclass(frozen=True)
class ResultPicture:
    """An array that is only published in Tiled, whose web page cannot show volumes and complex numbers.

    Attributes:
        name: its name.
        axes: names of its axes.
        description: what it shows, for the reference page.
        values: returns the picture for an open result file.
    """

    name: str
    axes: tuple[str, ...]
    description: str
    values: Callable[[h5py.File], NDArray]


_ARRAYS = (
    ResultArray(
        "delta", ("z", "y", "x"), "", "δ of n = 1 − δ + iβ, float32", lambda result: result.solution.delta.cpu().numpy()
    ),
    ResultArray("beta", ("z", "y", "x"), "", "β, float32", lambda result: result.solution.beta.cpu().numpy()),
    ResultArray(
        "probe",
        ("mode", "y", "x"),
        "",
        "probe at z = 0, complex64, in the square root of the frames' unit",
        lambda result: result.solution.probe.cpu().numpy(),
    ),
    ResultArray(
        "positions", ("view", "axis"), "m", "positions (y, x) after refinement", lambda result: result.position_m
    ),
    ResultArray(
        "frame_r_factors",
        ("view",),
        "",
        "R-factor of each frame; NaN for frames that were left out",
        lambda result: result.frame_r_factors,
        required=False,  # Jobs of earlier versions did not write it.
    ),
)

RESULT_TABLES = (
    ResultTable(
        "history",
        "epoch",
        ("epoch", "loss", "held_back_loss", "seconds", "coarseness"),
        "one row per epoch. loss: misfit of the recipe's `fidelity` (mean of (√I_model − √I)² for `amplitude`) divided "
        "by the mean intensity; held_back_loss: the same for the validation frames; seconds: since the start of the "
        "first fit; coarseness: binning factor of the frames (above 1 in preliminary fits)",
        lambda result: _columns(result),
    ),
    ResultTable(
        VIEWS,
        "view",
        VIEW_COLUMNS,
        "angle, distance and position of each view in the scan, before alignment and refinement",
        lambda result: _views(result),
        required=False,  # Jobs of earlier versions did not write it.
    ),
    ResultTable(
        "shell_correlation",
        "shell",
        ("frequency_per_m", "correlation", "half_bit"),
        "Fourier shell correlation of δ from two halves of the views, if requested",
        lambda result: result.shell_correlation.curves if result.shell_correlation else None,
        required=False,
    ),
)
"""Tables of the result file."""

RESULT_PICTURES = (
    ResultPicture(
        "preview", ("row", "column"), "central slices of δ, 8 bit", lambda file: preview(_array(file, "delta"))
    ),
    ResultPicture(
        "probe_amplitude", ("mode", "y", "x"), "magnitude of the probe", lambda file: np.abs(_array(file, "probe")[()])
    ),
)
"""Arrays that are only published in Tiled."""


@functools.cache
def result_arrays() -> Mapping[str, ResultArray]:
    """Return the arrays of a result by name: those of this package, and entry points of other installed packages.

    Raises:
        ExtensionError: an entry point is not a ``ResultArray``, or its name is already in use.
    """
    return with_extensions(
        {array.name: array for array in _ARRAYS},
        group=GROUP,
        rule="a ResultArray",
        accepts=lambda offered: isinstance(offered, ResultArray),
        reserved={"refined", "provenance", *(entry.name for entry in (*RESULT_TABLES, *RESULT_PICTURES))},
    )


def result_lines() -> Iterator[str]:
    """Yield the lines of the reference page's table in Markdown."""
    yield "| name | axes | unit | meaning |"
    yield "| --- | --- | --- | --- |"
    for array in result_arrays().values():
        yield f"| `{array.name}` | ({', '.join(array.axes)}) | {array.unit} | {array.description} |"
    for table in RESULT_TABLES:
        columns = ", ".join(f"`{column}`" for column in table.columns)
        yield f"| `{table.name}`: {columns} | ({table.axis},) | | {table.description} |"
    for picture in RESULT_PICTURES:
        yield f"| `{picture.name}`, only in Tiled | ({', '.join(picture.axes)}) | | {picture.description} |"


def _columns(result: Reconstruction) -> dict[str, NDArray]:
    rows = [asdict(epoch) for epoch in result.solution.history]
    return {name: np.array([row[name] for row in rows], float) for name in (rows[0] if rows else ())}


def _views(result: Reconstruction) -> dict[str, NDArray]:
    geometry = result.scan_geometry or result.geometry
    return dict(zip(VIEW_COLUMNS, (geometry.angle_rad, geometry.distance_m, *geometry.position_m.T), strict=True))


def _array(file: h5py.File, name: str) -> h5py.Dataset:
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(name)
    return dataset
