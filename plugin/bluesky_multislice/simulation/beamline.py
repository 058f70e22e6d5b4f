"""A simulated beamline: ophyd-async motors and a detector, driven by a real RunEngine into Tiled."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.run_engine import RunEngine
from bluesky.utils import MsgGenerator
from bluesky_tiled_plugins.writing.tiled_writer import TiledWriter
from numpy.typing import NDArray
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices
from ophyd_async.sim import SimMotor
from tiled.client.container import Container

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.simulation.detector import SimulatedDetector
from bluesky_multislice.units import energy_ev_from_wavelength

CAMERA = "camera"


@dataclass(frozen=True)
class Beamline:
    """The devices of the simulated beamline.

    Attributes:
        rotation_angle: rotates the sample about +y, degrees.
        sample_x: translates the sample along x, µm.
        sample_y: translates the sample along y, µm.
        camera: the detector.
    """

    rotation_angle: SimMotor
    sample_x: SimMotor
    sample_y: SimMotor
    camera: SimulatedDetector


class KnownArrays:
    """Arrays known before the scan, such as the detector mask, as a device that a plan reads once.

    Args:
        arrays: data key → array.
    """

    name = "known"
    parent = None

    def __init__(self, arrays: Mapping[str, NDArray]) -> None:
        self._arrays = dict(arrays)

    def read(self) -> dict[str, Any]:
        """Return the arrays."""
        return {key: {"value": array, "timestamp": time.time()} for key, array in self._arrays.items()}

    def describe(self) -> dict[str, Any]:
        """Describe the arrays."""
        return {
            key: {
                "source": "simulation",
                "dtype": "array",
                "shape": list(array.shape),
                "dtype_numpy": array.dtype.str,
            }
            for key, array in self._arrays.items()
        }


def make_beamline(frames: NDArray, folder: Path) -> Beamline:
    """Connect the devices. A RunEngine must exist, because the devices use its event loop.

    Args:
        frames: (view, y, x) frames that the detector will record, in the order of the scan.
        folder: folder to which the detector writes.
    """
    with init_devices():
        rotation_angle = SimMotor(units="deg")
        sample_x = SimMotor(units="um")
        sample_y = SimMotor(units="um")
        camera = SimulatedDetector(frames, StaticPathProvider(UUIDFilenameProvider(), folder.resolve()))
    return Beamline(rotation_angle, sample_x, sample_y, camera)


def scan_plan(
    beamline: Beamline,
    geometry: ScanGeometry,
    *,
    metadata: Mapping[str, Any],
    known: Mapping[str, NDArray],
    progress: Callable[[int], None] | None = None,
) -> MsgGenerator[str]:
    """Take one frame at every view of ``geometry``.

    Args:
        beamline: the devices.
        geometry: the views; the sample translation is the negative of the probe position.
        metadata: start document.
        known: arrays of the stream ``static`` (``detector_mask``, ``probe``).
        progress: called with the number of frames taken so far.

    Returns:
        The run's unique identifier.
    """
    devices = [beamline.camera, beamline.rotation_angle, beamline.sample_x, beamline.sample_y]

    def visit_views() -> MsgGenerator[None]:
        if known:
            yield from bps.trigger_and_read([KnownArrays(known)], name="static")
        sample_um = -1e6 * geometry.position_m
        for view, (angle, (y, x)) in enumerate(zip(np.degrees(geometry.angle_rad), sample_um, strict=True)):
            yield from bps.mv(
                beamline.rotation_angle, float(angle), beamline.sample_y, float(y), beamline.sample_x, float(x)
            )
            yield from bps.trigger_and_read(devices)
            if progress is not None:
                progress(view + 1)

    run = bpp.run_wrapper(visit_views(), md=dict(metadata))
    return (yield from bpp.stage_wrapper(run, devices))


def start_document(geometry: ScanGeometry) -> dict[str, Any]:
    """Return the entries that the metadata contract requires in the start document of a scan with this geometry."""
    document: dict[str, Any] = {
        "plan_name": "scan_plan",
        "technique": geometry.technique,
        "energy_ev": energy_ev_from_wavelength(geometry.beam.wavelength_m),
        "detector_distance_m": float(geometry.distance_m[0]),
        "detector_pixel_size_m": list(geometry.detector.pixel_size_m),
        "detector_regime": geometry.detector.regime,
        "detector_image": CAMERA,
    }
    document |= geometry.values
    if geometry.focus_distance_m is not None:
        document["focus_distance_m"] = float(geometry.focus_distance_m[0])
    return document


def run_scan(
    client: Container,
    frames: NDArray,
    geometry: ScanGeometry,
    *,
    folder: Path,
    metadata: Mapping[str, Any] | None = None,
    known: Mapping[str, NDArray] | None = None,
    progress: Callable[[int], None] | None = None,
    batch_size: int = 1,
) -> str:
    """Run a scan on the simulated beamline with a real RunEngine and write the run to Tiled.

    Args:
        client: the catalogue that receives the run.
        frames: (view, y, x) frames that the detector records, in the order of the geometry.
        geometry: the views, all at one distance.
        folder: folder to which the detector writes; the Tiled server must be able to read it.
        metadata: additions to the start document; a value of None removes the field.
        known: arrays known before the scan: ``detector_mask`` (y, x; CXI bits, 0 is good), ``probe`` (mode, y, x).
        progress: called with the number of frames taken so far.
        batch_size: events per write to Tiled; with 1, every frame is visible at once.

    Returns:
        The run's unique identifier.
    """
    run_engine = RunEngine(context_managers=[])
    run_engine.subscribe(TiledWriter(client, batch_size=batch_size))
    beamline = make_beamline(frames, folder)
    document = start_document(geometry) | dict(metadata or {})
    plan = scan_plan(
        beamline,
        geometry,
        metadata={key: value for key, value in document.items() if value is not None},
        known=known or {},
        progress=progress,
    )
    started: list[str] = []
    run_engine.subscribe(lambda _, start: started.append(start["uid"]), "start")
    run_engine(plan)
    return started[0]
