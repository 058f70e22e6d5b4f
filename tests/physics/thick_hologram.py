"""Holograms of a thick phantom at many angles, from a finer simulation that uses no model of the package.

Lengths are in voxels of the volume that will be reconstructed. The simulation has FINER samples a voxel along every
axis and double precision; every plane is a slice; the sample is turned by cubic splines. The wave lives in a field
twice as wide as the frames, so that nothing that the volume can hold comes around into them, and a pixel sums what
falls on it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from thick_phantom import FINER, VOXEL_M, turned

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry

BETA_OVER_DELTA = 0.05


@dataclass(frozen=True)
class Hologram:
    """Parameters of the simulation.

    Attributes:
        size: voxels and pixels a side.
        angles: over half a turn.
        wavelength: λ.
        distance: from the rotation axis to the detector.
        delta: largest δ; β is a twentieth of δ.
        bodies: how many ellipsoids; there are half as many fibres.
        radii: least and largest radius of a body, parts of the size.
        seed: of the bodies' places.
        axis: how far right of the frames' middle the rotation axis is.
    """

    size: int = 64
    angles: int = 48
    wavelength: float = 0.5
    distance: float = 232
    delta: float = 3e-3
    bodies: int = 40
    radii: tuple[float, float] = (0.05, 0.14)
    seed: int = 3
    axis: float = 0.0

    def fine_delta(self) -> NDArray[np.float64]:
        """Return δ (z, y, x) on the fine grid: ellipsoids and fibres in the cylinder visible at all angles."""
        n = FINER * self.size
        random = np.random.default_rng(self.seed)
        along = (np.arange(n) - (n - 1) / 2) / n
        points = np.stack(np.meshgrid(along, along, along, indexing="ij"))
        volume = np.zeros((n, n, n))
        for number in range(self.bodies * 3 // 2):
            half = random.uniform(*self.radii) * random.uniform(0.7, 1.4, 3)
            if number >= self.bodies:
                half = random.uniform(0.25, 0.5) * self.radii[0] * np.array([1, 1, 0]) + np.array([0, 0, 0.15])
            axes = np.linalg.qr(random.normal(size=(3, 3)))[0]
            reach, turn = 0.36 * np.sqrt(random.uniform()), random.uniform(0, 2 * np.pi)
            middle = np.array([reach * np.sin(turn), random.uniform(-0.36, 0.36), reach * np.cos(turn)])
            seen = np.tensordot(axes.T, points - middle[:, None, None, None], 1) / half[:, None, None, None]
            volume = np.where((seen**2).sum(0) < 1, random.uniform(0.3, 1.0), volume)
        z, y, x = points
        inside = (z**2 + x**2 < 0.45**2) & (np.abs(y) < 0.45)
        smooth = ndimage.gaussian_filter(volume * inside, 0.6 * FINER)
        return self.delta * smooth

    def truth(self) -> NDArray[np.float32]:
        """Return δ (z, y, x), the mean over each voxel."""
        n = self.size
        return self.fine_delta().reshape(n, FINER, n, FINER, n, FINER).mean((1, 3, 5)).astype(np.float32)

    def geometry(self) -> ScanGeometry:
        """Return the scan."""
        return ScanGeometry(
            technique="holography",
            beam=Beam(self.wavelength * VOXEL_M),
            detector=Detector((self.size, self.size), (VOXEL_M, VOXEL_M), "near_field"),
            distance_m=np.full(self.angles, self.distance * VOXEL_M),
            angle_rad=np.arange(self.angles) * np.pi / self.angles,
            position_m=np.zeros((self.angles, 2)),
        )

    def frames(self) -> NDArray[np.float64]:
        """Return expected intensities (angle, y, x) in a beam of intensity one."""
        fine = self.fine_delta()
        coefficients = ndimage.spline_filter1d(ndimage.spline_filter1d(fine, axis=0), axis=2)
        return np.stack([self._hologram(turned(coefficients, angle)) for angle in self.geometry().angle_rad])

    def scan(self, frames: NDArray[np.float64], photons: float | None = None, seed: int = 0) -> Scan:
        """Return the scan with the noise of this number of photons per pixel of the beam; None: no noise."""
        if photons is not None:
            frames = np.random.default_rng(seed).poisson(frames * photons)
        return Scan(self.geometry(), Frames(frames.astype(np.float32)))

    def _hologram(self, delta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the hologram (y, x) of a rotated sample (z, y, x)."""
        fine, pitch = len(delta), 1 / FINER
        n, edge = 2 * fine, fine // 2
        f = np.fft.fftfreq(n, pitch)
        squared = f[:, None] ** 2 + f[None, :] ** 2
        step = self._propagator(squared, pitch)
        phase = -2 * np.pi / self.wavelength * pitch
        wave, inside = np.ones((n, n), complex), slice(edge, edge + fine)
        for number, plane in enumerate(delta):
            wave[inside, inside] *= np.exp((1j + BETA_OVER_DELTA) * phase * plane)
            if number < fine - 1:
                wave = fft.ifft2(fft.fft2(wave, overwrite_x=True) * step, overwrite_x=True)
        way = self._propagator(squared, self.distance - (fine - 1) * pitch / 2)
        way *= np.exp(-2j * np.pi * f * self.axis)
        intensity = np.abs(fft.ifft2(fft.fft2(wave) * way)[inside, inside]) ** 2
        return intensity.reshape(self.size, FINER, self.size, FINER).mean((1, 3))

    def _propagator(self, squared_frequency: NDArray[np.float64], way: float) -> NDArray[np.complex128]:
        root = np.sqrt((1 - self.wavelength**2 * squared_frequency).astype(complex)) - 1
        return np.exp(2j * np.pi / self.wavelength * way * root)
