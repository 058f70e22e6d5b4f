"""Frames of a known volume, from file to file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bluesky_multislice.errors import PlanError
from bluesky_multislice.files import read_geometry, read_volume, write_predicted
from bluesky_multislice.measurement import unorient
from bluesky_multislice.recipe import Instrument, Propagation, ScanValues
from bluesky_multislice.reconstruction import add_photon_noise, photon_scale, simulate_frames


def simulate_file(
    volume_file: Path,
    scan_file: Path,
    output: Path,
    *,
    propagation: Propagation,
    slices: int | None,
    photons: float | None,
    seed: int,
    values: ScanValues | None = None,
    instrument: Instrument | None = None,
    on_view: Callable[[int, int], None],
) -> None:
    """Write the scan with the frames that the volume would give.

    Args:
        volume_file: ``/delta``, ``/beta`` (z, y, x) and ``voxel_size_m``.
        scan_file: interchange file without frames; the frame's shape is the mask's.
        output: the same with frames, float64.
        propagation: name of the propagation.
        slices: slices along the beam; None takes every plane.
        photons: mean photons a frame (ptychography) or a pixel (others); None is noiseless.
        seed: of the photon noise.
        values: values that overrule the scan's; like those of the instrument they are used and not written.
        instrument: where else to look for values.
        on_view: called with views done and views in all.

    Raises:
        MultisliceError: volume and scan do not fit each other.
    """
    if not output.parent.is_dir():
        raise PlanError(
            "The frames need an existing folder.", got=f"{output.parent}.", remedy="create it or correct the path."
        )
    volume, scan = read_volume(volume_file), read_geometry(scan_file, values=values, instrument=instrument)
    views = scan.geometry.views
    if scan.frames.source.shape[0] != views:
        raise PlanError(
            "Frames can be simulated for sample views only.",
            got=f"an image_key with {scan.frames.source.shape[0] - views} darks or flats in {scan_file}.",
            remedy="leave image_key out.",
        )
    frames = np.empty((views, *scan.geometry.detector.shape))
    expected = simulate_frames(
        scan, volume.delta, volume.beta, voxel_size_m=volume.voxel_size_m, propagation=propagation, slices=slices
    )
    for view, frame in enumerate(expected):
        frames[view] = frame
        on_view(view + 1, views)
    scale = 1.0
    if photons is not None:
        scale = photon_scale(scan.geometry, frames, photons)
        frames = add_photon_noise(frames, scale=scale, seed=seed)
    write_predicted(output, scan_file, unorient(frames, scan.frames.orientation), intensity_scale=scale)
