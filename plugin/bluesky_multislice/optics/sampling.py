"""Checks of what a caller hands to a propagation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bluesky_multislice.errors import ScanError

Pixel = float | tuple[float, float]
Thickness = float | Sequence[float] | Tensor
Windows = Sequence[tuple[int, int]]


def pixel_pair(pixel_size_m: Pixel) -> tuple[float, float]:
    """Return the pitch as (y, x)."""
    if isinstance(pixel_size_m, int | float):
        return float(pixel_size_m), float(pixel_size_m)
    return float(pixel_size_m[0]), float(pixel_size_m[1])


def thickness_of_slices(slice_thickness_m: Thickness, slices: int) -> Tensor:
    """Return one thickness a slice (z,), float64.

    Args:
        slice_thickness_m: one number for all, or one a slice.
        slices: number of slices.

    Raises:
        ScanError: their number is another one, or not all are positive.
    """
    thickness = torch.as_tensor(slice_thickness_m, dtype=torch.float64)
    if thickness.ndim == 0:
        thickness = thickness.expand(slices)
    if thickness.shape != (slices,) or not bool((thickness > 0).all()):
        raise ScanError(
            "Every slice has one thickness, larger than zero.",
            got=f"{thickness.numel()} thicknesses from {float(thickness.min()):g} m for {slices} slices.",
            remedy="give one number for all slices, or one a slice.",
        )
    return thickness


def check_wave_and_object(wave: Tensor, delta: Tensor, beta: Tensor, windows: Windows | None = None) -> None:
    """Refuse shapes and types that do not belong together.

    Raises:
        ScanError: wave is not complex (view, y, x), or δ and β are not (z, y, x) or (z, view, y, x) on its grid, or a
            window does not lie in the planes.
    """
    fits = wave.is_complex() and wave.ndim == 3 and delta.shape == beta.shape
    if fits and windows is None:
        fits = (
            delta.ndim in (3, 4)
            and delta.shape[-2:] == wave.shape[-2:]
            and (delta.ndim == 3 or delta.shape[1] in (1, wave.shape[0]))
        )
    if not fits:
        raise ScanError(
            "A propagation needs a complex wave (view, y, x) with δ and β (z, y, x) or (z, view, y, x) on its grid.",
            got=f"wave {wave.dtype} {tuple(wave.shape)}, δ {tuple(delta.shape)}, β {tuple(beta.shape)}.",
            remedy="reshape them; δ and β come z first.",
        )
    if windows is None:
        return
    last = tuple(plane - window for plane, window in zip(delta.shape[-2:], wave.shape[-2:], strict=True))
    inside = all(0 <= y <= last[0] and 0 <= x <= last[1] for y, x in windows)
    if delta.ndim != 3 or len(windows) != len(wave) or not inside:
        raise ScanError(
            "Every view needs a window that lies in the planes (z, y, x) of the object.",
            got=f"{len(windows)} windows for a wave {tuple(wave.shape)} in planes {tuple(delta.shape)}.",
            remedy="pad the planes with vacuum, or move the windows.",
        )
