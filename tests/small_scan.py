"""A thick little sample and a scan of it, small enough to reconstruct in a test."""

import numpy as np

from bluesky_multislice.frames import Frames
from bluesky_multislice.geometry import Beam, Detector, ScanGeometry
from bluesky_multislice.predict import predict_frames
from bluesky_multislice.scan import Scan

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
    frames = predict_frames(blank(geometry), delta, 0.1 * delta, voxel_size_m=(VOXEL_M, VOXEL_M, VOXEL_M))
    return Scan(geometry, Frames(np.array(list(frames))))
