"""Fourier shell correlation of two independent reconstructions, and the split of the views between them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models import technique_of


@dataclass(frozen=True, eq=False)
class ShellCorrelation:
    """Correlation of two volumes by spatial frequency.

    Attributes:
        frequency_per_m: (shell,) central frequency of each shell, 1/m, up to the Nyquist frequency of the coarsest
            axis.
        correlation: (shell,) from −1 to 1.
        half_bit: (shell,) half-bit curve, above which a shell contains at least half a bit of information per voxel.
        resolution_m: 1/f at the first crossing below the half-bit curve, at best two voxels; None if the first shell is
            already below.
    """

    frequency_per_m: NDArray[np.float64]
    correlation: NDArray[np.float64]
    half_bit: NDArray[np.float64]
    resolution_m: float | None

    @property
    def curves(self) -> dict[str, NDArray[np.float64]]:
        """The curves by name."""
        return {
            "frequency_per_m": self.frequency_per_m,
            "correlation": self.correlation,
            "half_bit": self.half_bit,
        }


def shell_correlation(first: Tensor, second: Tensor, voxel_size_m: tuple[float, ...]) -> ShellCorrelation:
    """Return the Fourier shell correlation of two volumes.

    Zero frequency is excluded. The width of shells is the lowest frequency of the axis with the smallest length in
    metres.

    Args:
        first: (..., z, y, x) for shells, (..., y, x) for rings; summed over leading axes.
        second: same shape.
        voxel_size_m: pitch of the transformed axes: (z, y, x) for shells, (y, x) for rings.

    Source: van Heel & Schatz, J. Struct. Biol. 151, 250 (2005), eq. 17 for the half-bit curve.
    """
    axes = tuple(range(-len(voxel_size_m), 0))
    spectra = [torch.fft.fftn(volume.double(), dim=axes) for volume in (first, second)]
    shape = tuple(first.shape[axis] for axis in axes)
    width = 1 / min(n * pitch for n, pitch in zip(shape, voxel_size_m, strict=True))
    shell = torch.round(_radius(shape, voxel_size_m).to(first.device) / width).long()
    shells = int(min(0.5 / pitch for pitch in voxel_size_m) / width + 1e-6) + 1
    inside = (shell > 0) & (shell < shells)

    def gather(values: Tensor) -> Tensor:
        values = values.reshape(-1, *shape).sum(0)
        return torch.zeros(shells, dtype=values.dtype, device=values.device).index_add_(
            0, shell[inside], values[inside]
        )[1:]

    cross = gather((spectra[0] * spectra[1].conj()).real)
    power = gather(spectra[0].abs() ** 2) * gather(spectra[1].abs() ** 2)
    correlation = torch.where(power > 0, cross / power.clamp(min=1e-300).sqrt(), torch.zeros_like(cross))
    number = gather(torch.ones_like(first, dtype=torch.float64))
    frequency: NDArray[np.float64] = width * np.arange(1, shells, dtype=np.float64)
    curves = correlation.cpu().numpy(), half_bit_curve(number.cpu().numpy())
    return ShellCorrelation(frequency, *curves, _resolution_m(frequency, *curves))


def half_bit_curve(voxels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the half-bit threshold for shells with this number of voxels (van Heel & Schatz 2005, eq. 17)."""
    root = 1 / np.sqrt(np.maximum(voxels, 1))
    return (0.2071 + 1.9102 * root) / (1.2071 + 0.9102 * root)


def halves(geometry: ScanGeometry, views: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide views into two halves that can be reconstructed independently.

    If each view shows the whole sample, these are even and odd angles; all distances of an angle stay together. If a
    probe is scanned, they are even and odd views of each angle. Both halves then contain all angles, at neighbouring
    positions, so that missing angles do not reduce the resolution.

    Args:
        geometry: the scan.
        views: (n,) indices of the views to divide.
    """
    _, angle = np.unique(geometry.angle_rad[views], return_inverse=True)
    odd = angle % 2
    if technique_of(geometry).overlapping or angle.max(initial=0) == 0:
        for number in range(int(angle.max(initial=-1)) + 1):
            members = np.flatnonzero(angle == number)
            # Angles alternate in the half that gets their first view, so that odd view counts balance.
            odd[members] = (np.arange(len(members)) + number) % 2
    return views[odd == 0], views[odd == 1]


def _radius(shape: tuple[int, ...], voxel_size_m: tuple[float, ...]) -> Tensor:
    """Return the spatial frequency of each Fourier coefficient, 1/m."""
    lines = [torch.fft.fftfreq(n, pitch, dtype=torch.float64) for n, pitch in zip(shape, voxel_size_m, strict=True)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0).sqrt()


def _resolution_m(frequency: NDArray, correlation: NDArray, half_bit: NDArray) -> float | None:
    """Return 1/f of the first crossing, by linear interpolation between shells."""
    above = correlation - half_bit
    below = np.flatnonzero(above < 0)
    if not len(below):
        return float(1 / frequency[-1]) if len(frequency) else None
    at = int(below[0])
    if at == 0:
        return None
    crossing = frequency[at - 1] + (frequency[at] - frequency[at - 1]) * above[at - 1] / (above[at - 1] - above[at])
    return float(1 / crossing) if math.isfinite(crossing) else None
