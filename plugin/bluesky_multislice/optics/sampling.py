"""Checks of what a caller hands to a propagation."""

from torch import Tensor

from bluesky_multislice.errors import ScanError

Pixel = float | tuple[float, float]


def pixel_pair(pixel_size_m: Pixel) -> tuple[float, float]:
    """Return the pitch as (y, x)."""
    if isinstance(pixel_size_m, int | float):
        return float(pixel_size_m), float(pixel_size_m)
    return float(pixel_size_m[0]), float(pixel_size_m[1])


def check_wave_and_object(wave: Tensor, delta: Tensor, beta: Tensor) -> None:
    """Refuse shapes and types that do not belong together.

    Raises:
        ScanError: wave is not complex (view, y, x), or δ and β are not (z, y, x) or (z, view, y, x) on its grid.
    """
    fits = (
        wave.is_complex()
        and wave.ndim == 3
        and delta.shape == beta.shape
        and delta.ndim in (3, 4)
        and delta.shape[-2:] == wave.shape[-2:]
        and (delta.ndim == 3 or delta.shape[1] in (1, wave.shape[0]))
    )
    if not fits:
        raise ScanError(
            "A propagation needs a complex wave (view, y, x) with δ and β (z, y, x) or (z, view, y, x) on its grid.",
            got=f"wave {wave.dtype} {tuple(wave.shape)}, δ {tuple(delta.shape)}, β {tuple(beta.shape)}.",
            remedy="reshape them; δ and β come z first.",
        )
