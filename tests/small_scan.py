"""A thick little sample and a scan of it, small enough to reconstruct in a test."""

from dataclasses import replace

import numpy as np

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct, simulate_frames
from bluesky_multislice.simulation.phantoms import convergent_probe, spheres_and_shells

VOXEL_M = 1e-9


def hologram_geometry(n=16, angles=8, distance_m=30e-9):
    return ScanGeometry(
        technique="holography",
        beam=Beam(0.5e-9),
        detector=Detector((n, n), (VOXEL_M, VOXEL_M), "near_field"),
        distance_m=np.full(angles, distance_m),
        angle_rad=np.arange(angles) * np.pi / angles,
        position_m=np.zeros((angles, 2)),
    )


def ball(n=16, radius=4.0, delta=5e-3):
    """δ (z, y, x) of a ball off the axis."""
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2,) * 3, indexing="ij")
    distance = np.sqrt((z - 1.5) ** 2 + (y + 1) ** 2 + (x - 2) ** 2)
    return (delta / (1 + np.exp(2 * (distance - radius)))).astype(np.float32)


def blank(geometry):
    """The scan without light or memory, for what only needs a geometry."""
    return Scan(geometry, Frames(np.broadcast_to(np.zeros(1, np.float32), (geometry.views, *geometry.detector.shape))))


def hologram_scan(n=16, angles=8, distance_m=30e-9):
    """A noiseless scan of ``ball(n)``."""
    geometry, delta = hologram_geometry(n, angles, distance_m), ball(n)
    frames = simulate_frames(blank(geometry), delta, 0.1 * delta, voxel_size_m=(VOXEL_M, VOXEL_M, VOXEL_M))
    return Scan(geometry, Frames(np.array(list(frames))))


def thick_scan(n=32, angles=16):
    """A noiseless hologram scan six depths of field thick, and its δ (z, y, x)."""
    geometry = replace(hologram_geometry(n, angles, distance_m=50e-9), beam=Beam(1e-9))
    delta = spheres_and_shells(n, delta=8e-3, count=30, seed=1)
    frames = simulate_frames(blank(geometry), delta, 0.05 * delta, voxel_size_m=(VOXEL_M, VOXEL_M, VOXEL_M))
    return Scan(geometry, Frames(np.array(list(frames)))), delta


def pattern_scan(angles=8):
    """A noiseless far-field ptychography scan with its probe, and its δ (z, y, x), 28 voxels a side."""
    window, pixel_m, wavelength_m, focus_m = 16, 55e-6, 0.8e-9, 30e-9
    y, x = (axis.ravel() for axis in np.meshgrid(*(np.linspace(-6, 6, 5) * VOXEL_M,) * 2, indexing="ij"))
    geometry = ScanGeometry(
        technique="ptychography",
        beam=Beam(wavelength_m, focus_m),
        detector=Detector((window, window), (pixel_m, pixel_m), "far_field"),
        distance_m=np.full(angles * 25, VOXEL_M * window * pixel_m / wavelength_m),
        angle_rad=np.repeat(np.arange(angles) * np.pi / angles, 25),
        position_m=np.tile(np.stack([y, x], -1), (angles, 1)),
    )
    delta = spheres_and_shells(28, delta=8e-3, count=30, seed=2)
    probe = convergent_probe(window, VOXEL_M, wavelength_m, focus_distance_m=focus_m, aperture=0.28)
    described = Scan(geometry, blank(geometry).frames, probe)
    frames = simulate_frames(described, delta, 0.05 * delta, voxel_size_m=(VOXEL_M, VOXEL_M, VOXEL_M))
    return Scan(geometry, Frames(np.array(list(frames))), probe), delta


def rebuild(scan, **recipe):
    """The solution of a reconstruction in this process."""
    plan = make_plan(Recipe(**({"ranks": 1, "device": "cpu"} | recipe)), scan)
    with join_mesh("cpu") as mesh:
        return reconstruct(scan, plan, mesh).solution


def relative_error(found, truth):
    """Distance from the truth over the truth's length."""
    found, truth = np.asarray(found), np.asarray(truth)
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)
