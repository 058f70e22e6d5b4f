"""A phantom nine depths of field thick and its patterns, from a finer simulation without models of the package.

Lengths are in voxels of the volume that will be reconstructed. The simulation has FINER samples a voxel along every
axis and double precision; every plane is a slice; the sample is turned by cubic splines. The wave lives in the window
that belongs to the detector's pitch and comes around at its edges, as in a reconstruction from such patterns. It is not
independent there: in a window twice as wide, even with an aperture of 0.2, patterns differ by 5 % of their amplitude.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.simulation.phantoms import spheres_and_shells

FINER, VOXEL_M, PIXEL_M = 2, 1e-9, 55e-6


@dataclass(frozen=True)
class Phantom:
    """Parameters of the simulation.

    Attributes:
        size: voxels a side.
        window: detector pixels a side, and voxels a side of the window that they belong to.
        angles: over half a turn.
        positions: a side of the square of scan positions.
        reach: largest position.
        wavelength: λ.
        focus: way from the focus down to the rotation axis.
        aperture: radius of the lens's pupil, cycles a voxel.
        delta: largest δ; β is a twentieth of δ.
        spheres: how many.
        seed: of the spheres' places.
    """

    size: int = 64
    window: int = 32
    angles: int = 40
    positions: int = 9
    reach: float = 16
    wavelength: float = 0.8
    focus: float = 60
    aperture: float = 0.28
    delta: float = 8e-3
    spheres: int = 60
    seed: int = 2

    def fine_delta(self) -> NDArray[np.float64]:
        """Return δ (z, y, x) on the fine grid."""
        fine = spheres_and_shells(FINER * self.size, delta=self.delta, count=self.spheres, seed=self.seed)
        return ndimage.gaussian_filter(fine.astype(float), 0.6 * np.sqrt(FINER**2 - 1))

    def truth(self) -> NDArray[np.float32]:
        """Return δ (z, y, x), the mean over each voxel."""
        n = self.size
        return self.fine_delta().reshape(n, FINER, n, FINER, n, FINER).mean((1, 3, 5)).astype(np.float32)

    def geometry(self) -> ScanGeometry:
        """Return the scan; its views are ordered by angle."""
        steps = np.linspace(-self.reach, self.reach, self.positions)
        positions = np.stack([axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij")], -1)
        views = self.angles * len(positions)
        wavelength_m = self.wavelength * VOXEL_M
        return ScanGeometry(
            technique="ptychography",
            beam=Beam(wavelength_m, focus_distance_m=self.focus * VOXEL_M),
            detector=Detector((self.window, self.window), (PIXEL_M, PIXEL_M), "far_field"),
            distance_m=np.full(views, VOXEL_M * self.window * PIXEL_M / wavelength_m),
            angle_rad=np.repeat(np.arange(self.angles) * np.pi / self.angles, len(positions)),
            position_m=np.tile(positions * VOXEL_M, (self.angles, 1)),
        )

    def probe(self, distance: float, *, pitch: float, width: int) -> NDArray[np.complex128]:
        """Return the wave (y, x) of one lens, ``distance`` behind z = 0, on ``width`` voxels sampled with ``pitch``."""
        n = round(width / pitch)
        f = np.fft.fftfreq(self.window)
        radius = np.hypot(f[:, None], f[None, :])
        pupil = 1 / (1 + np.exp((radius - self.aperture) / (0.05 * self.aperture)))
        way = self._propagator(radius**2, self.focus + distance)
        at = np.exp(2j * np.pi * np.outer((np.arange(n) - (n - 1) / 2) * pitch, f))
        wave = at @ (pupil * way) @ at.T
        return wave / np.sqrt(np.sum(pupil**2) * len(f) ** 2)

    def frames(self) -> NDArray[np.float64]:
        """Return expected intensities (view, y, x) of a probe of one photon."""
        coefficients = ndimage.spline_filter1d(ndimage.spline_filter1d(self.fine_delta(), axis=0), axis=2)
        geometry = self.geometry()
        return np.concatenate(
            [
                self._patterns(turned(coefficients, angle), geometry.position_m[geometry.angle_rad == angle] / VOXEL_M)
                for angle in np.unique(geometry.angle_rad)
            ]
        )

    def scan(self, frames: NDArray[np.float64], photons: float, seed: int = 0) -> Scan:
        """Return the scan with its probe and noise, with ``photons`` per pattern on average."""
        probe = self.probe(0.0, pitch=1.0, width=self.window)[None] * np.sqrt(photons)
        counts = np.random.default_rng(seed).poisson(frames * photons).astype(np.float32)
        return Scan(self.geometry(), Frames(counts), probe.astype(np.complex64))

    def _propagator(self, squared_frequency: NDArray[np.float64], way: float) -> NDArray[np.complex128]:
        root = np.sqrt((1 - self.wavelength**2 * squared_frequency).astype(complex)) - 1
        return np.exp(2j * np.pi / self.wavelength * way * root)

    def _patterns(self, delta: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the patterns (position, y, x) of a rotated sample (z, y, x)."""
        n, planes, pitch = FINER * self.window, len(delta), 1 / FINER
        edge = (n - FINER * self.window) // 2
        transmission = np.exp(-2j * np.pi / self.wavelength * pitch * (1 - 0.05j) * delta)
        transmission = np.pad(transmission, ((0, 0), (edge, edge), (edge, edge)), constant_values=1)
        starts = np.rint(FINER * (positions + (self.size - self.window) / 2)).astype(int)
        f = np.fft.fftfreq(n, pitch)
        squared = f[:, None] ** 2 + f[None, :] ** 2
        step = self._propagator(squared, pitch)
        entrance = -(planes - 1) * pitch / 2
        wave = np.repeat(self.probe(entrance, pitch=pitch, width=self.window)[None], len(starts), 0)
        for z, plane in enumerate(transmission):
            for one, (y, x) in zip(wave, starts, strict=True):
                one *= plane[y : y + n, x : x + n]
            if z < planes - 1:
                wave = fft.ifft2(fft.fft2(wave, overwrite_x=True) * step, overwrite_x=True)
        spectrum = fft.fftshift(fft.fft2(wave), axes=(-2, -1))
        seen = slice((n - self.window) // 2, (n + self.window) // 2)
        return np.abs(spectrum[:, seen, seen] / FINER**2 / self.window) ** 2


def turned(coefficients: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Return the sample (z, y, x) rotated about y, from the spline coefficients of its planes (z, x)."""
    n = len(coefficients)
    along = np.arange(n) - (n - 1) / 2
    z, x = np.meshgrid(along, along, indexing="ij")
    sample = (x * np.sin(angle) + z * np.cos(angle), x * np.cos(angle) - z * np.sin(angle))
    where = [part + (n - 1) / 2 for part in sample]
    planes = [ndimage.map_coordinates(part, where, prefilter=False) for part in coefficients.swapaxes(0, 1)]
    return np.stack(planes, axis=1).clip(min=0)


def fourier_shell_correlation(one: NDArray, other: NDArray, *, low: float = 0.2, high: float = 0.45) -> float:
    """Return the mean correlation over shells one frequency step wide between two frequencies, cycles per voxel."""
    n = one.shape[0]
    a, b = np.fft.fftn(one), np.fft.fftn(other)
    f = np.fft.fftfreq(n)
    radius = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + f[None, None, :] ** 2)
    shell = np.rint(radius * n).astype(int).ravel()
    cross, power, other_power = (
        np.bincount(shell, part.ravel()) for part in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    )
    shells = np.arange(round(low * n), round(high * n) + 1)
    return float(np.mean(cross[shells] / np.sqrt(power[shells] * other_power[shells])))
