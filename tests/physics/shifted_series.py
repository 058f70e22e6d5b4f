"""Series of holograms that are shifted from angle to angle, and what an alignment leaves of the shifts."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from thick_hologram import Hologram

from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction.start import Alignment, align_series


@dataclass(frozen=True)
class Island(Hologram):
    """A phantom with vacuum around it, half as wide as the frames."""

    def fine_delta(self) -> NDArray[np.float64]:
        """Return δ (z, y, x) on the fine grid."""
        inner = Hologram(self.size // 2, self.angles, radii=self.radii, delta=self.delta).fine_delta()
        return np.pad(inner, len(inner) // 2)


def without_motion(shifts: NDArray[np.float64], angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return shifts (angle, 2) without those that move the whole volume, which no series determines."""
    basis = np.stack([np.cos(angles_rad), np.sin(angles_rad)], 1)
    along_x = shifts[:, 1] - basis @ np.linalg.lstsq(basis, shifts[:, 1], rcond=None)[0]
    return np.stack([shifts[:, 0] - shifts[:, 0].mean(), along_x], 1)


def random_shifts(rms: float, angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return normally distributed shifts (angle, 2) in pixels."""
    return without_motion(np.random.default_rng(0).normal(0, rms, (len(angles_rad), 2)), angles_rad)


def bounded_shifts(largest: float, angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return uniformly distributed shifts (angle, 2) of at most this many pixels, before the motion is removed."""
    return without_motion(np.random.default_rng(0).uniform(-largest, largest, (len(angles_rad), 2)), angles_rad)


def drift(pixels: float, angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return shifts (angle, 2) that grow along y, and swing along x."""
    part = np.linspace(0, 1, len(angles_rad))
    return without_motion(pixels * np.stack([part, np.sin(4 * part)], 1), angles_rad)


def shifted(frames: NDArray[np.floating], shifts: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return frames (angle, y, x) with their content shifted by these pixels (angle, 2)."""
    y, x = np.fft.fftfreq(frames.shape[1])[:, None], np.fft.rfftfreq(frames.shape[2])
    ramp = np.exp(-2j * np.pi * (y * shifts[:, 0, None, None] + x * shifts[:, 1, None, None]))
    return np.fft.irfft2(np.fft.rfft2(frames) * ramp, frames.shape[1:])


def alignment_of(scan: Scan, views: NDArray[np.intp] | None = None) -> Alignment:
    """Return the alignment of a scan, from all views or from these."""
    plan = make_plan(Recipe(ranks=1, device="cpu"), scan)
    probe = torch.ones(1, *plan.forward_model(scan.geometry).window, dtype=torch.complex64)
    with join_mesh("cpu") as mesh:
        return align_series(scan, plan, probe, 1.0, mesh, np.arange(scan.geometry.views) if views is None else views)


def errors_of(found: Alignment, shifts: NDArray[np.float64], angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the errors (angle, 2) of found shifts in pixels."""
    return without_motion(found.pixels, angles_rad) + shifts


def scan_of_distances(phantoms: tuple[Hologram, ...], shifts: NDArray[np.float64]) -> Scan:
    """Return a scan of several distances, whose frames of one angle are shifted alike."""
    scans = [phantom.scan(shifted(phantom.frames(), shifts)) for phantom in phantoms]
    geometries = [scan.geometry for scan in scans]
    geometry = replace(
        geometries[0],
        distance_m=np.concatenate([one.distance_m for one in geometries]),
        angle_rad=np.concatenate([one.angle_rad for one in geometries]),
        position_m=np.concatenate([one.position_m for one in geometries]),
    )
    return Scan(geometry, Frames(np.concatenate([scan.frames.source for scan in scans])))
