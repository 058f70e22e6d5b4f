"""Tiled multislice: each tile is propagated through the whole object with a halo, which is cut off at the end."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bluesky_multislice.choices import Kernel
from bluesky_multislice.errors import ScanError
from bluesky_multislice.optics.multislice import multislice
from bluesky_multislice.optics.sampling import (
    Pixel,
    Thickness,
    Windows,
    check_wave_and_object,
    halo_pixels,
    pixel_pair,
    thickness_of_slices,
)
from bluesky_multislice.optics.split_step import Gradient


def tiled_multislice(
    wave: Tensor,
    delta: Tensor,
    beta: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: Pixel,
    slice_thickness_m: Thickness,
    windows: Windows | None = None,
    absorber: Tensor | None = None,
    gradient: Gradient = "auto",
    kernel: Kernel = "angular_spectrum",
    tiles: tuple[int, int] = (2, 2),
    accuracy: float = 0.02,
    halo: int | None = None,
) -> Tensor:
    """Return the wave at the exit plane of a thick object, computed tile by tile.

    The field stays periodic: a halo beyond its edge continues on the other side. Tiles are enlarged to sizes for which
    the FFT is fast. A tile as large as the field has no halo.

    Args:
        wave: complex (view, y, x) at the entrance plane.
        delta: δ, as in ``multislice``.
        beta: β, the same shape as δ.
        wavelength_m: wavelength.
        pixel_size_m: lateral pitch, one number or (y, x).
        slice_thickness_m: thickness of all slices, or of each slice (z,).
        windows: first pixel (y, x) of each view's window in the planes.
        absorber: real (y, x) factor on the wave behind every slice.
        gradient: which waves are stored for the gradient of each tile, see ``split_step``. ``recomputed`` stores the
            waves of one row of tiles at a time and propagates that row again in the backward pass. It works with any
            absorption.
        kernel: angular spectrum or Fresnel.
        tiles: number of tiles (y, x); they need not divide the field evenly.
        accuracy: relative error of the scattered wave that the halo may cause.
        halo: pixels around each tile; None derives them from ``accuracy``.

    Returns:
        complex (view, y, x). Differentiable in wave, δ, β and thickness.

    Raises:
        ScanError: shapes are inconsistent, or there are more tiles than pixels.

    Source: Ali et al., Opt. Express 28, 29590 (2020).
    """
    check_wave_and_object(wave, delta, beta, windows)
    shape = wave.shape[-2:]
    if not all(1 <= number <= size for number, size in zip(tiles, shape, strict=True)):
        raise ScanError(
            "The number of tiles along an axis must be between one and the number of pixels.",
            got=f"{tiles} tiles for a field of {tuple(shape)} pixels.",
            remedy="use fewer tiles.",
        )
    pixel, thickness = pixel_pair(pixel_size_m), thickness_of_slices(slice_thickness_m, len(delta))
    optics = {"wavelength_m": wavelength_m, "distance_m": thickness.detach().sum().item()}
    halos = [halo_pixels(accuracy, pixel_size_m=p, **optics) if halo is None else halo for p in pixel]
    rows, columns = (_tiles_along_axis(*axis, wave.device) for axis in zip(shape, tiles, halos, strict=True))
    recomputed = gradient == "recomputed"
    through = functools.partial(
        multislice,
        wavelength_m=wavelength_m,
        pixel_size_m=pixel,
        slice_thickness_m=thickness,
        gradient="stored" if recomputed else gradient,
        kernel=kernel,
    )
    tiled = _TiledField(through, rows, columns, [] if absorber is None else [absorber], recomputed)
    if windows is None:
        return tiled.propagate(wave, delta, beta)
    cuts = [(..., slice(y, y + shape[0]), slice(x, x + shape[1])) for y, x in windows]
    return torch.cat([tiled.propagate(wave[n : n + 1], delta[cut], beta[cut]) for n, cut in enumerate(cuts)])


@dataclass(frozen=True, eq=False)
class _TiledField:
    """A field that is propagated tile by tile.

    Attributes:
        through: propagates (wave, δ, β) of one tile.
        rows: pixels of each row of tiles along y, and the slice of them without the halo.
        columns: the same along x.
        masks: real (y, x) factor on the wave behind every slice, if there is one.
        recomputed: propagate each row of tiles again in the backward pass, instead of storing its waves.
    """

    through: Callable[..., Tensor]
    rows: Sequence[tuple[Tensor, slice]]
    columns: Sequence[tuple[Tensor, slice]]
    masks: Sequence[Tensor]
    recomputed: bool

    def propagate(self, *parts: Tensor) -> Tensor:
        """Return the exit wave of the field with the parts (wave, δ, β)."""
        row = functools.partial(checkpoint, self._row, use_reentrant=False) if self.recomputed else self._row
        strips = (row(*parts, *self.masks, pixels) for pixels, _ in self.rows)
        return torch.cat([strip[:, own] for strip, (_, own) in zip(strips, self.rows, strict=True)], -2)

    def _row(self, *parts_and_pixels: Tensor) -> Tensor:
        # Cutting rows first reads each row of the field once for all tiles that share it, forward and backward.
        *parts, pixels = parts_and_pixels
        strip = [part.index_select(-2, pixels) for part in parts]
        return torch.cat(
            [self._tile(*(part.index_select(-1, pixels) for part in strip))[..., own] for pixels, own in self.columns],
            -1,
        )

    def _tile(self, wave: Tensor, delta: Tensor, beta: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.through(wave, delta, beta, absorber=mask)


def _tiles_along_axis(size: int, number: int, halo: int, device: torch.device) -> list[tuple[Tensor, slice]]:
    """Return for each tile along an axis its pixels (n,) including the halo, and the slice of them without the halo."""
    bounds = [size * edge // number for edge in range(number + 1)]
    tiles = []
    for first, last in itertools.pairwise(bounds):
        length = int(next_fast_len(last - first + 2 * halo) or size)
        before = halo if length < size else 0
        pixels = torch.arange(first - before, first - before + min(length, size), device=device) % size
        tiles.append((pixels, slice(before, before + last - first)))
    return tiles
