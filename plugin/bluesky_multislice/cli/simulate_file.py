"""Simulates the frames of a known volume, from file to file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bluesky_multislice.choices import Propagation
from bluesky_multislice.errors import PlanError
from bluesky_multislice.files import read_geometry, read_volume, write_simulated
from bluesky_multislice.measurement import unorient
from bluesky_multislice.recipe import Instrument, ScanValues
from bluesky_multislice.reconstruction import add_photon_noise, photon_scale, simulate_frames


@dataclass(frozen=True)
class Simulation:
    """How frames are simulated.

    Attributes:
        propagation: propagation model.
        slices: number of slices along the beam; None: one per plane of the volume.
        photons: mean photons per frame (ptychography) or per pixel (other techniques); None: no noise.
        seed: seed of the photon noise.
        values: values that override the scan's; they are used, but not written to the output.
        instrument: instrument file, searched for values that the scan lacks; also not written to the output.
    """

    propagation: Propagation = "multislice"
    slices: int | None = None
    photons: float | None = None
    seed: int = 0
    values: ScanValues | None = None
    instrument: Instrument | None = None


def simulate_file(
    volume_file: Path, scan_file: Path, output: Path, simulation: Simulation, *, on_view: Callable[[int, int], None]
) -> None:
    """Write a copy of a scan with the simulated frames of a volume.

    Args:
        volume_file: file with ``/delta``, ``/beta`` (z, y, x) and ``voxel_size_m``.
        scan_file: interchange file without frames; the mask gives the shape of the frames.
        output: copy of the interchange file with frames, float64.
        simulation: how frames are simulated.
        on_view: called with the number of simulated views and the number of all views.

    Raises:
        MultisliceError: volume and scan do not match.
    """
    if not output.parent.is_dir():
        raise PlanError(
            "The folder of the output must exist.", got=f"{output.parent}.", remedy="create it or correct the path."
        )
    volume = read_volume(volume_file)
    scan = read_geometry(scan_file, values=simulation.values, instrument=simulation.instrument)
    views = scan.geometry.views
    if scan.frames.source.shape[0] != views:
        raise PlanError(
            "A scan to simulate must contain no darks or flats.",
            got=f"an image_key with {scan.frames.source.shape[0] - views} darks or flats in {scan_file}.",
            remedy="remove image_key from the file.",
        )
    frames = np.empty((views, *scan.geometry.detector.shape))
    expected = simulate_frames(
        scan,
        volume.delta,
        volume.beta,
        voxel_size_m=volume.voxel_size_m,
        propagation=simulation.propagation,
        slices=simulation.slices,
    )
    for view, frame in enumerate(expected):
        frames[view] = frame
        on_view(view + 1, views)
    scale = 1.0
    if simulation.photons is not None:
        scale = photon_scale(scan.geometry, frames, simulation.photons)
        frames = add_photon_noise(frames, scale=scale, seed=simulation.seed)
    write_simulated(output, scan_file, unorient(frames, scan.frames.orientation), intensity_scale=scale)
