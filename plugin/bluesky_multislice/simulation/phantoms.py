"""Phantoms that are many depths of field thick, and the scans of the demo."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.reconstruction import add_photon_noise, photon_scale, simulate_frames

_VOXEL_M = 1e-9


@dataclass(frozen=True, eq=False)
class Sample:
    """A known sample and the geometry of its scan.

    Attributes:
        delta: (z, y, x) true δ.
        beta: (z, y, x) true β.
        voxel_size_m: voxel size, equal along all axes, m.
        geometry: geometry of the scan.
        probe: (mode, y, x) at z = 0; None: a plane wave.
        photons: mean photons per frame or pixel, see ``photon_scale``.
    """

    delta: NDArray[np.float32]
    beta: NDArray[np.float32]
    voxel_size_m: float
    geometry: ScanGeometry
    probe: NDArray[np.complex64] | None
    photons: float

    def frames(self, seed: int = 0) -> NDArray[np.uint32]:
        """Return photon counts (view, y, x), simulated with one slice per plane of the volume."""
        shape = (self.geometry.views, *self.geometry.detector.shape)
        scan = Scan(self.geometry, Frames(np.broadcast_to(np.zeros(1, np.float32), shape)), self.probe)
        pitch = (self.voxel_size_m, self.voxel_size_m, self.voxel_size_m)
        expected = np.array(list(simulate_frames(scan, self.delta, self.beta, voxel_size_m=pitch)))
        scale = photon_scale(self.geometry, expected, self.photons)
        return add_photon_noise(expected, scale=scale, seed=seed).astype(np.uint32)


def spheres_and_shells(n: int, *, delta: float, count: int, seed: int) -> NDArray[np.float32]:
    """Return δ (z, y, x) of spheres and spherical shells of several materials inside a cylinder along y.

    Args:
        n: voxels per side.
        delta: largest δ.
        count: number of spheres and shells.
        seed: seed of their positions, sizes and materials.
    """
    random = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2,) * 3, indexing="ij")
    volume = np.zeros((n, n, n), np.float32)
    for number in range(count):
        radius = random.uniform(0.05, 0.11) * n
        center_radius, azimuth = (0.40 * n - radius) * np.sqrt(random.uniform()), random.uniform(0, 2 * np.pi)
        center_y = random.uniform(-1, 1) * (0.42 * n - radius)
        center_z, center_x = center_radius * np.sin(azimuth), center_radius * np.cos(azimuth)
        distance = np.sqrt((z - center_z) ** 2 + (y - center_y) ** 2 + (x - center_x) ** 2)
        body = distance < radius if number % 2 else (distance < radius) & (distance > 0.55 * radius)
        volume[body] = delta * random.uniform(0.4, 1.0)
    return np.asarray(gaussian_filter(volume, 0.6), np.float32)


def demo_sample(technique: str) -> Sample:
    """Return the demo's sample for a technique: 64³ voxels of 1 nm, at least ten depths of field thick."""
    return {"holography": _hologram_sample, "ptychography": _ptychography_sample}[technique]()


def _hologram_sample() -> Sample:
    n, angles = 64, 48
    delta = spheres_and_shells(n, delta=8e-3, count=60, seed=1)
    geometry = ScanGeometry(
        technique="holography",
        beam=Beam(1.0e-9),
        detector=Detector((n, n), (_VOXEL_M, _VOXEL_M), "near_field"),
        distance_m=np.full(angles, 100e-9),
        angle_rad=np.arange(angles) * np.pi / angles,
        position_m=np.zeros((angles, 2)),
    )
    return Sample(delta, delta * 0.05, _VOXEL_M, geometry, None, photons=1e5)


def _ptychography_sample() -> Sample:
    n, window, angles = 64, 32, 24
    wavelength, pixel, distance = 0.8e-9, 55e-6, 0.0
    distance = _VOXEL_M * window * pixel / wavelength
    steps = np.linspace(-16, 16, 9) * _VOXEL_M
    y, x = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    positions = np.stack([y, x], -1)
    geometry = ScanGeometry(
        technique="ptychography",
        beam=Beam(wavelength, focus_distance_m=60e-9),
        detector=Detector((window, window), (pixel, pixel), "far_field"),
        distance_m=np.full(angles * len(positions), distance),
        angle_rad=np.repeat(np.arange(angles) * np.pi / angles, len(positions)),
        position_m=np.tile(positions, (angles, 1)),
    )
    delta = spheres_and_shells(n, delta=8e-3, count=60, seed=2)
    probe = convergent_probe(window, _VOXEL_M, wavelength, focus_distance_m=60e-9, aperture=0.28)
    return Sample(delta, delta * 0.05, _VOXEL_M, geometry, probe, photons=1e6)


def convergent_probe(
    n: int, pixel_m: float, wavelength_m: float, *, focus_distance_m: float, aperture: float
) -> NDArray[np.complex64]:
    """Return the defocused probe (1, n, n) of a lens with a round, soft-edged pupil, with unit mean intensity.

    Args:
        n: pixels per side.
        pixel_m: pixel size, m.
        wavelength_m: wavelength, m.
        focus_distance_m: distance from the focus to z = 0, m.
        aperture: radius of the pupil, cycles per pixel.
    """
    f = np.fft.fftfreq(n)
    radius = np.hypot(f[:, None], f[None, :])
    pupil = 1 / (1 + np.exp((radius - aperture) / (0.05 * aperture)))
    phase = -np.pi * wavelength_m * focus_distance_m * (radius / pixel_m) ** 2
    wave = np.fft.fftshift(np.fft.ifft2(pupil * np.exp(1j * phase)))
    return (wave / np.sqrt(np.mean(np.abs(wave) ** 2)))[None].astype(np.complex64)
