"""Initial guess from a former result: its volume, probe and geometry, converted to the plan's grid and units.

The result's lateral voxels are the pixels of its probe.
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import REFINED_QUANTITIES, FormerResult, Scan, ScanGeometry, VolumeGrid
from bluesky_multislice.parallel import Mesh, Slab
from bluesky_multislice.planning import Plan

_SAME = 1e-6
"""Largest difference of equal grids, in pixels."""

_NEIGHBOURS = 3
"""Rows beside a rank's own that the interpolation needs."""

_ROWS = 8
"""Rows that are resampled along z at once."""

_SAME_EXPOSURE = 0.05
"""Relative difference of the mean intensity up to which frames of the same views have the same unit."""


def with_former_positions(scan: Scan, plan: Plan) -> Scan:
    """Return the scan with the positions of its former result, if the plan takes them over."""
    if scan.former is None or "positions" not in plan.from_former:
        return scan
    return replace(scan, geometry=scan.former.moved(scan.geometry))


def former_volume(former: FormerResult, geometry: ScanGeometry, plan: Plan, mesh: Mesh) -> list[Tensor]:
    """Return δ and β (z, y, x) of a former result on the plan's grid, the stored rows.

    The projected phase is kept, also on coarser planes. The volume is empty outside of the former one.

    Args:
        former: the result.
        geometry: geometry of the scan.
        plan: plan of the reconstruction.
        mesh: the ranks; each reads its own rows.

    Raises:
        ScanError: the result contains values that are not finite.
    """
    grid, phase = _grid_of_model(former, geometry, plan)
    rows = Slab(mesh, plan.grid.shape[1]).rows
    ratio = geometry.beam.wavelength_m / former.wavelength_m
    delta = _resampled(former, "delta", grid, plan.grid, rows) * np.float32(phase * ratio**2)
    beta = np.zeros_like(delta)
    if plan.fit.absorption:
        beta = _resampled(former, "beta", grid, plan.grid, rows) * np.float32(phase * ratio**4)
    return [torch.from_numpy(part).to(mesh.device) for part in (delta, beta)]


def former_probe(former: FormerResult, scan: Scan, plan: Plan, scale: float) -> Tensor:
    """Return the strongest modes of a former result's probe (mode, y, x), in the frames' unit over ``scale``.

    Left-out modes give their energy to the others.

    Args:
        former: the result.
        scan: the scan.
        plan: plan of the reconstruction.
        scale: intensity that is normalised to 1.
    """
    probe = former.probe
    powers = np.square(np.abs(probe)).sum((1, 2), dtype=float)
    if plan.probe_modes < len(probe):
        kept = np.sort(np.argsort(-powers, kind="stable")[: plan.probe_modes])
        probe = probe[kept] * math.sqrt(powers.sum() / powers[kept].sum())
    return torch.from_numpy(_on_window(probe, former, scan, plan, scale))


def former_differences(former: FormerResult, scan: Scan, plan: Plan, scale: float) -> dict[str, Tensor]:
    """Return the initial values of refined quantities that the plan takes over, as in ``Solution.differences``.

    Args:
        former: the result.
        scan: the scan.
        plan: plan of the reconstruction.
        scale: intensity that is normalised to 1.
    """
    found = {}
    for name in REFINED_QUANTITIES:
        if name in plan.from_former and name != "positions":
            values = torch.from_numpy(np.array(former.refined[name], np.float32))
            found[name] = values / _unit(former, plan, scale) if name.startswith("background") else values
    if "probe_variations" in plan.from_former:
        shapes = np.asarray(former.refined["probe_variations"], np.complex64)
        found["probe_variations"] = torch.from_numpy(_on_window(shapes, former, scan, plan, scale))
        weights = np.array(former.refined["variation_of_view"], np.float32)
        found["variation_of_view"] = torch.from_numpy(weights)
    return found


def resampled_means(
    values: NDArray[np.floating], edges: NDArray[np.float64], onto: NDArray[np.float64], axis: int
) -> NDArray[np.float32]:
    """Return the means of a line's cells between other edges; cells are 0 outside of the line.

    The integral is interpolated by monotone cubics (Fritsch & Butland, SIAM J. Sci. Stat. Comput. 5, 300 (1984)), so
    that sums are kept, positive values stay positive, and coarser cells have the exact mean.

    Args:
        values: values of cells along the axis.
        edges: (cell + 1,) edges of the cells.
        onto: edges of the result's cells.
        axis: the axis.
    """
    pitch = edges[1] - edges[0]
    if len(edges) == len(onto) and np.abs(edges - onto).max() < _SAME * pitch:
        return np.asarray(values, np.float32)
    lines = np.moveaxis(values, axis, -1)
    integral = np.zeros((*lines.shape[:-1], len(edges)))
    np.cumsum(lines, axis=-1, dtype=float, out=integral[..., 1:])
    # In units of the cells, because the numbers in metres are small.
    places = np.clip((onto - edges[0]) / pitch, 0, len(edges) - 1)
    found = np.diff(PchipInterpolator(np.arange(len(edges)), integral, axis=-1)(places), axis=-1)
    means = found / (np.diff(onto) / pitch)
    return np.moveaxis(means, -1, axis).astype(np.float32)


def _grid_of_model(former: FormerResult, geometry: ScanGeometry, plan: Plan) -> tuple[VolumeGrid, float]:
    """Return the grid of the volume in the coordinates of the plan's model, and the factor on δ and β.

    The coordinates of a model with a refined distance or slice spacing are those of the scan's values.
    """
    depth, y, x = former.grid.voxel_size_m
    planes, phase = former.grid.shape[0], 1.0
    several_angles = len(np.unique(geometry.angle_rad)) > 1
    if "slice_spacing" in plan.from_former:
        depth -= float(np.sum(former.refined["slice_spacing"])) / planes
    if "distance" in plan.from_former and geometry.detector.regime == "far_field":
        scale = 1 + float(np.mean(former.refined["distance"])) / float(geometry.distance_m.mean())
        y, x = y / scale, x / scale
        depth, phase = (depth / scale, scale) if several_angles else (depth, 1.0)
    if not several_angles and depth * planes > plan.grid.thickness_m:
        # A single angle hardly determines the depth of the object, but its projected phase.
        thinner = plan.grid.thickness_m / (depth * planes)
        depth, phase = depth * thinner, phase / thinner
    return replace(former.grid, voxel_size_m=(depth, y, x)), phase


def _edges_m(grid: VolumeGrid, axis: int, cells: slice) -> NDArray[np.float64]:
    n, pitch_m = grid.shape[axis], grid.voxel_size_m[axis]
    return grid.center_m[axis] + (np.arange(cells.start, cells.stop + 1) - n / 2) * pitch_m


def _resampled(
    former: FormerResult, name: Literal["delta", "beta"], grid: VolumeGrid, onto: VolumeGrid, rows: slice
) -> NDArray[np.float32]:
    """Return these rows (z, y, x) of δ or β, from the planes of the former volume one by one."""
    (nz, ny, nx), depth = grid.shape, onto.shape[0]
    rows_m = _edges_m(onto, 1, rows)
    bounds = (rows_m[[0, -1]] - grid.center_m[1]) / grid.voxel_size_m[1] + ny / 2
    first = int(np.clip(math.floor(bounds[0]) - _NEIGHBOURS, 0, ny - 1))
    own = slice(first, int(np.clip(math.ceil(bounds[1]) + _NEIGHBOURS, first + 1, ny)))
    own_m, columns_m = _edges_m(grid, 1, own), _edges_m(grid, 2, slice(0, nx))
    onto_columns_m = _edges_m(onto, 2, slice(0, onto.shape[2]))
    planes = np.empty((nz, rows.stop - rows.start, onto.shape[2]), np.float32)
    for number, plane in enumerate(former.volumes.planes(name, own)):
        _check_finite(plane, name, number, former)
        planes[number] = resampled_means(resampled_means(plane, own_m, rows_m, 0), columns_m, onto_columns_m, 1)
    found = np.empty((depth, *planes.shape[1:]), np.float32)
    edges_m, onto_m = _edges_m(grid, 0, slice(0, nz)), _edges_m(onto, 0, slice(0, depth))
    for start in range(0, planes.shape[1], _ROWS):
        some = slice(start, start + _ROWS)
        found[:, some] = resampled_means(planes[:, some], edges_m, onto_m, 0)
    return found


def _check_finite(plane: NDArray[np.float32], name: str, number: int, former: FormerResult) -> None:
    bad = int((~np.isfinite(plane)).sum())
    if bad:
        raise ScanError(
            "The values of a former result must be finite.",
            got=f"{bad} NaN or infinite values in plane {number} of {name} in {former.name}.",
            remedy="name another result, or leave start_from out.",
        )


def _unit(former: FormerResult, plan: Plan, scale: float) -> float:
    """Return the intensity of the former result that corresponds to 1 in the normalised frames."""
    known = former.frame_intensity
    if known is None:
        return scale
    same_views = "positions" in plan.from_former
    return scale if same_views and abs(known / scale - 1) < _SAME_EXPOSURE else known


def _on_window(
    probe: NDArray[np.complex64], former: FormerResult, scan: Scan, plan: Plan, scale: float
) -> NDArray[np.complex64]:
    """Return waves (mode, y, x) on the pixels of the plan's windows, in the normalised frames' unit.

    In the near field, the intensity per detector pixel is kept; in the far field, that of the whole pattern.
    """
    model = plan.forward_model(scan.geometry)
    pixel_m = _grid_of_model(former, scan.geometry, plan)[0].voxel_size_m[1:]
    ratio = [new / old for new, old in zip(model.pixel_m, pixel_m, strict=True)]
    factor = former.oversampling / plan.oversampling / math.sqrt(_unit(former, plan, scale))
    if model.far_field:
        # The sum over a pattern is its mean times its pixels, and that of a wave falls with the area of its pixels.
        factor *= math.sqrt(math.prod(ratio) * math.prod(model.window) / math.prod(probe.shape[-2:]))
    if probe.shape[-2:] != model.window or np.abs(np.array(ratio) - 1).max() * max(model.window) > _SAME:
        lines = [
            (np.arange(n) - (n - 1) / 2) * each + (m - 1) / 2
            for n, m, each in zip(model.window, probe.shape[-2:], ratio, strict=True)
        ]
        places = np.stack(np.meshgrid(*lines, indexing="ij"))
        outside = "constant" if model.far_field else "nearest"
        resampled = np.stack([ndimage.map_coordinates(mode, places, order=3, mode=outside) for mode in probe])
        return (resampled * factor).astype(np.complex64)
    return (probe * factor).astype(np.complex64)
