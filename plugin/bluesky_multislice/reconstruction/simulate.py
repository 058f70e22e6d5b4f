"""Simulated noiseless frames of a known volume, and photon noise."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.choices import Propagation
from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Scan, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions, embed, technique_of, way_to_detector
from bluesky_multislice.planning import window_margin


def simulate_frames(
    scan: Scan,
    delta: NDArray[np.floating],
    beta: NDArray[np.floating],
    *,
    voxel_size_m: tuple[float, float, float],
    propagation: Propagation = "multislice",
    slices: int | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Yield the expected intensity (y, x) of each view of a scan, float64, in the scan's order.

    Args:
        scan: geometry and probe; without a probe, a plane wave of amplitude one.
        delta: (z, y, x), centred on the rotation axis.
        beta: (z, y, x).
        voxel_size_m: pitch (z, y, x); the lateral pitch must be the scan's object pixel.
        propagation: name of the propagation.
        slices: slices along the beam; None: one per plane.

    Raises:
        PlanError: the volume does not match the scan's sampling, or there are more slices than planes.
    """
    _check(scan, delta, beta, voxel_size_m, slices)
    model = ForwardModel(
        scan.geometry,
        VolumeGrid((delta.shape[0], delta.shape[1], delta.shape[2]), voxel_size_m),
        ModelOptions(
            slices=slices or delta.shape[0],
            propagation=propagation,
            margin=window_margin(scan.geometry, 1e-3, most=1.0),
            way_to_detector=way_to_detector(scan.geometry),
            precision=torch.float64,
        ),
    )
    if scan.probe is None:
        probe = torch.ones((1, *model.window), dtype=torch.complex128)
    else:
        probe = embed(scan.probe, model.window).to(torch.complex128)
    volume = torch.as_tensor(np.asarray([delta, beta]), dtype=torch.float64)
    angles = scan.geometry.angle_rad
    with torch.no_grad():
        for start, stop in _runs(angles, longest=16):
            yield from model(volume[0], volume[1], probe, range(start, stop)).numpy()


def add_photon_noise(frames: NDArray[np.floating], *, scale: float, seed: int) -> NDArray[np.float64]:
    """Return Poisson counts (view, y, x) of the expected intensities times ``scale``, float64.

    Raises:
        PlanError: the scale is not positive and finite, or the seed is negative.
    """
    if not 0 < scale < np.inf:
        raise PlanError(
            "Photon noise needs a positive, finite number of photons.",
            got=f"frames times {scale:g}.",
            remedy="correct the number of photons; dark ptychography frames cannot be scaled.",
        )
    if seed < 0:
        raise PlanError(
            "The seed of photon noise must not be negative.", got=f"seed {seed}.", remedy="use a seed of 0 or more."
        )
    return np.random.default_rng(seed).poisson(frames * scale).astype(np.float64)


def photon_scale(geometry: ScanGeometry, frames: NDArray[np.floating], photons: float) -> float:
    """Return the factor that scales frames (view, y, x) of unit waves to ``photons`` on average.

    Photons are counted per frame if a probe is scanned, else per pixel of the beam without a sample.
    """
    return photons * len(frames) / float(frames.sum()) if technique_of(geometry).overlapping else photons


def _runs(angles: NDArray[np.float64], longest: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of consecutive views at the same angle, at most ``longest`` each."""
    breaks = (np.flatnonzero(np.diff(angles)) + 1).tolist()
    for start, stop in zip([0, *breaks], [*breaks, len(angles)], strict=True):
        for at in range(start, stop, longest):
            yield at, min(at + longest, stop)


def _check(scan: Scan, delta: NDArray, beta: NDArray, voxel_size_m: tuple[float, ...], slices: int | None) -> None:
    if delta.ndim != 3 or delta.shape != beta.shape:
        raise PlanError(
            "δ and β of a volume must have the same shape (z, y, x).",
            got=f"{delta.shape} and {beta.shape}.",
            remedy="write /delta and /beta with equal shapes.",
        )
    if not (np.isfinite(delta).all() and np.isfinite(beta).all()):
        raise PlanError(
            "δ and β of a volume must be finite.", got="NaN or infinite voxels.", remedy="repair the volume."
        )
    pitch = scan.geometry.object_pixel_m
    if not np.allclose(voxel_size_m[1:], pitch, rtol=1e-3, atol=0):
        raise PlanError(
            "The lateral voxel size must equal the scan's object pixel.",
            got=f"voxels of {voxel_size_m[1]:.4g} × {voxel_size_m[2]:.4g} m for object pixels of "
            f"{pitch[0]:.4g} × {pitch[1]:.4g} m.",
            remedy="resample the volume, or correct the focus distance, the detector distance or the pixel size.",
        )
    if len(np.unique(scan.geometry.angle_rad)) > 1 and not np.isclose(
        voxel_size_m[0], voxel_size_m[2], rtol=1e-3, atol=0
    ):
        raise PlanError(
            "A rotated volume needs voxels that are as deep as wide.",
            got=f"{voxel_size_m[0]:.4g} m along z, {voxel_size_m[2]:.4g} m along x.",
            remedy="resample the volume.",
        )
    if slices is not None and not 1 <= slices <= delta.shape[0]:
        raise PlanError(
            "A slice contains at least one plane of the volume.",
            got=f"{slices} slices for {delta.shape[0]} planes.",
            remedy="leave slices out, or use fewer.",
        )
