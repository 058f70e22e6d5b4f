"""The sample turned about y, in planes perpendicular to it: a slab of y needs no other. Or about a tilted axis."""

import functools
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bluesky_multislice.errors import ScanError
from bluesky_multislice.optics.host import on_device
from bluesky_multislice.optics.interpolation import turn_in_planes
from bluesky_multislice.optics.shears import turn_by_shears

Interpolation = Literal["linear", "cubic", "fourier"]
Angle = float | Tensor


def rotate(
    volume: Tensor,
    angle_rad: Angle,
    *,
    tilt_rad: tuple[Angle, Angle] | Tensor | None = None,
    interpolation: Interpolation = "linear",
    slices: int | None = None,
) -> Tensor:
    """Return the lab's view (z, y, x) of a sample turned by +θ about +y, then tilted with its axis.

    Without a tilt the lab point (x, z) sees the sample point (x·cosθ − z·sinθ, x·sinθ + z·cosθ). A tilt (α, γ) turns
    the axis by γ about +z, from x towards y, and then by α about +x, from y towards z: its top leans to −x for γ > 0
    and downstream for α > 0. The lab point (x, y, z) then sees what without the tilt is seen at

        (x·cosγ + y₁·sinγ, y₁·cosγ − x·sinγ, z·cosα − y·sinα),  y₁ = y·cosα + z·sinα.

    All axes go through the middle of the volume; outside of it is vacuum. Gradients are exact transposes.

    Args:
        volume: (z, y, x), real, of voxels that are square in z and x, and cubic where there is a tilt.
        angle_rad: θ; differentiable as a 0-d tensor.
        tilt_rad: (α, γ), numbers or tensors; differentiable as tensors. None keeps the axis on y.
        interpolation: ``linear`` takes the four (tilted: eight) neighbours. It is fast and keeps values within bounds,
            but weakens details: wrong by 1.5 %, 5.4 % and 20 % for details of 16, 8 and 4 pixels. ``cubic`` takes
            sixteen and is wrong by 0.06 %, 0.5 % and 5 %, in about the same time; it leaves a tilt to shears.
            ``fourier`` shears three times in Fourier space: exact for details of more than two pixels, but eight times
            slower. An edge of one pixel ripples by 8 % with ``cubic``, by 14 % with ``fourier``. A disc with such an
            edge is wrong by 4, 3 and 4 %; after twelve turns 15, 8 and 3 %.
        slices: average the turned planes in this many slices; how many planes each has is what ``planes_of_slices``
            says. None keeps all planes.

    Returns:
        (z, y, x), or (slice, y, x).

    Raises:
        ScanError: no volume, an unknown interpolation, or a number of slices that the volume does not have.

    Source of the shears: Larkin, Oldenburg & Klemm, Opt. Commun. 139, 99 (1997).
    """
    _check(volume, interpolation)
    planes = volume.shape[0]
    slice_of_plane = _slice_of_plane(planes, planes if slices is None else slices)
    if tilt_rad is None and _is_zero(angle_rad):
        return _mean_of_slices(volume, slice_of_plane)
    if tilt_rad is None and interpolation != "fourier":
        return turn_in_planes(volume, angle_rad, slice_of_plane, interpolation)
    about_x, about_z = (0.0, 0.0) if tilt_rad is None else tilt_rad
    if interpolation == "cubic":
        volume = turn_in_planes(volume, angle_rad, tuple(range(planes)), interpolation)
        angle_rad = 0.0
    if interpolation == "linear":
        return _mean_of_slices(_turn_in_space(volume, angle_rad, about_x, about_z), slice_of_plane)
    for angle, dims in ((angle_rad, (0, 2)), (about_z, (2, 1)), (about_x, (1, 0))):
        volume = volume if _is_zero(angle) else turn_by_shears(volume, angle, dims)
    return _mean_of_slices(volume, slice_of_plane)


def planes_of_slices(planes: int, slices: int) -> list[int]:
    """Return how many of a volume's planes each slice averages; they differ by at most one.

    Raises:
        ScanError: fewer planes than slices, or no slice.
    """
    return torch.bincount(torch.tensor(_slice_of_plane(planes, slices))).tolist()


def _slice_of_plane(planes: int, slices: int) -> tuple[int, ...]:
    if not 1 <= slices <= planes:
        raise ScanError(
            "A slice averages at least one plane of the volume.",
            got=f"{slices} slices of {planes} planes.",
            remedy=f"ask for 1 to {planes} slices, or give the volume more planes.",
        )
    return tuple(plane * slices // planes for plane in range(planes))


def _mean_of_slices(volume: Tensor, slice_of_plane: tuple[int, ...]) -> Tensor:
    if slice_of_plane[-1] + 1 == len(slice_of_plane):
        return volume
    return turn_in_planes(volume, 0.0, slice_of_plane)


def _is_zero(angle_rad: Angle) -> bool:
    """Return whether an angle is known to be zero; one on an accelerator is not looked at."""
    if isinstance(angle_rad, Tensor) and (angle_rad.requires_grad or angle_rad.device.type != "cpu"):
        return False
    return float(angle_rad) == 0


def _turn_in_space(volume: Tensor, angle_rad: Angle, about_x: Angle, about_z: Angle) -> Tensor:
    """Return the volume turned and tilted, by linear interpolation between eight neighbours."""
    turns = ((0, 2), angle_rad), ((1, 0), about_z), ((2, 1), about_x)
    matrix = functools.reduce(torch.matmul, (_about(*turn, volume.device) for turn in turns))
    nz, ny, nx = volume.shape
    size = np.array([nx, ny, nz], float)
    affine = functional.pad(matrix * on_device(size / size[:, None], volume.device), (0, 1)).to(volume)
    where = functional.affine_grid(affine[None], [1, 1, nz, ny, nx], align_corners=False)
    return functional.grid_sample(volume[None, None], where, padding_mode="zeros", align_corners=False)[0, 0]


def _about(axes: tuple[int, int], angle_rad: Angle, device: torch.device) -> Tensor:
    """Return the (3, 3) float64 matrix on (x, y, z) with u → u·cos − v·sin, v → u·sin + v·cos for the axes (u, v)."""
    u, v = axes
    swing, inside, outside = np.zeros((3, 3)), np.zeros((3, 3)), np.eye(3)
    swing[u, v], swing[v, u] = -1.0, 1.0
    inside[u, u] = inside[v, v] = 1.0
    parts = on_device(np.stack([outside - inside, inside, swing]), device)
    if not isinstance(angle_rad, Tensor):
        return parts[0] + math.cos(angle_rad) * parts[1] + math.sin(angle_rad) * parts[2]
    angle = angle_rad.to(device, torch.float64)
    return parts[0] + torch.cos(angle) * parts[1] + torch.sin(angle) * parts[2]


def _check(volume: Tensor, interpolation: str) -> None:
    if volume.ndim != 3 or volume.is_complex():
        raise ScanError(
            "A turn takes a real volume (z, y, x).",
            got=f"{volume.dtype} {tuple(volume.shape)}.",
            remedy="turn δ and β each alone.",
        )
    if interpolation not in ("linear", "cubic", "fourier"):
        raise ScanError(
            "The interpolation of a turn is linear, cubic or fourier.",
            got=f"{interpolation!r}.",
            remedy="take one of them.",
        )
