"""Profile of a machine: measured times of one rank, stored in a file for predictions."""

import functools
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions
from bluesky_multislice.optics import PROPAGATIONS, rotate, with_y_last
from bluesky_multislice.optics.accelerator import accelerator_count, device_name, resolve_device_type, synchronise
from bluesky_multislice.parallel import measured_rate
from bluesky_multislice.solvers import Bounds, DescentSettings, ObjectOptimiser, Priors, Scales, apply_bounds

_SIDES = (64, 128, 256, 512)
_SLICES, _SIDE, _PLANES_PER_SLICE, _SMALL_SIDE = 8, 128, 8, 8

_PIXELS = 2**17
"""Pixels of all waves that are timed together; they fit into a CPU's cache."""

_Positive = Annotated[float, Field(gt=0)]
_Times = Annotated[dict[Annotated[int, Field(gt=0)], _Positive], Field(min_length=1)]


class MachineProfile(BaseModel):
    """Times of one rank of a machine. Names of earlier versions are accepted in files."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, title="Machine profile")

    machine: str = Field(description="Name of the device.")
    device: str = Field(description="Type of device: cpu, cuda or xpu.")
    threads: int = Field(ge=1, description="Threads per rank.")
    fft_pair_s: _Times = Field(description="Side of a window in pixels → seconds of its FFT pair.")
    slice_pair_s: _Times = Field(
        description="Side of a window in pixels → seconds per FFT pair in multislice with gradient, all included."
    )
    rotation_seconds_per_voxel: float = Field(
        gt=0,
        validation_alias=AliasChoices("rotation_seconds_per_voxel", "turn_s_a_voxel"),
        description="Seconds of a rotation per voxel of the volume.",
    )
    slice_rotation_seconds_per_voxel: float = Field(
        gt=0,
        validation_alias=AliasChoices("slice_rotation_seconds_per_voxel", "turned_s_a_voxel"),
        description="Additional seconds of a rotation per voxel of the resulting slices.",
    )
    rotation_matrix_seconds_per_pixel: float = Field(
        gt=0,
        validation_alias=AliasChoices("rotation_matrix_seconds_per_pixel", "matrix_s_a_pixel"),
        description="Seconds to make the rotation matrix of a new angle, per pixel of a plane (z, x).",
    )
    batch_s: float = Field(gt=0, description="Overhead of a batch: seconds of its gradient for a tiny problem.")
    optimiser_seconds_per_voxel: float = Field(
        gt=0,
        validation_alias=AliasChoices("optimiser_seconds_per_voxel", "move_s_a_voxel"),
        description="Seconds of an optimiser step per voxel.",
    )
    regulariser_seconds_per_voxel: float = Field(
        gt=0,
        validation_alias=AliasChoices("regulariser_seconds_per_voxel", "regularise_s_a_voxel"),
        description="Seconds of total variation's gradient per voxel.",
    )
    exchange_bytes_per_s: float | None = Field(
        default=None,
        gt=0,
        validation_alias=AliasChoices("exchange_bytes_per_s", "exchange_bytes_a_s"),
        description="Bytes per second that each of two ranks sends to the other. None: not measured.",
    )
    network_bytes_per_s: float | None = Field(
        default=None, gt=0, description="Bytes per second between ranks on different nodes. None: as on one node."
    )
    ranks_per_node: int | None = Field(default=None, ge=1, description="Ranks per node. None: all.")
    measured: bool = Field(default=True, description="Whether the times were measured, not taken from a data sheet.")

    def slice_pair(self, pixels: float) -> float:
        """Return the seconds of an FFT pair of a window in multislice, scaled by pixels · log(pixels).

        Args:
            pixels: number of pixels of the window.
        """
        return _of_size(self.slice_pair_s, pixels)

    def fft_pair(self, pixels: float) -> float:
        """Return the seconds of a bare FFT pair of a window with this number of pixels."""
        return _of_size(self.fft_pair_s, pixels)


def read_profile(path: Path) -> MachineProfile:
    """Read a profile.

    Raises:
        PlanError: the file cannot be read, or is not a profile.
    """
    try:
        return MachineProfile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise PlanError(
            "A machine profile must be a JSON file written by multislice plan --measure.",
            got=f"{path}: {exc}",
            remedy="measure the machine again, or correct the path.",
        ) from exc


def write_profile(path: Path, profile: MachineProfile) -> None:
    """Write a profile.

    Raises:
        PlanError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps(profile.model_dump(mode="json"), indent=2) + "\n")
    except OSError as exc:
        raise PlanError(
            "A machine profile needs a file that can be written.", got=f"{path}: {exc}", remedy="choose another file."
        ) from exc


def measure_machine(device: str, *, sides: tuple[int, ...] = _SIDES, least_s: float = 0.3) -> MachineProfile:
    """Measure the times of one rank on this machine, and the exchange between two.

    Args:
        device: device of the recipe.
        sides: sides of the windows in pixels.
        least_s: smallest duration of each measurement, s.
    """
    place = torch.device(resolve_device_type(device))
    name = device_name(place) or f"{platform.system()} {platform.machine()}"
    # Two ranks cannot share a GPU.
    two = place.type == "cpu" or accelerator_count() > 1
    rotation_s, slice_rotation_s, matrix_s = _rotation(place, least_s)
    return MachineProfile(
        machine=name,
        device=place.type,
        threads=torch.get_num_threads(),
        fft_pair_s={side: _fft_pair(side, place, least_s) for side in sides},
        slice_pair_s={side: _slice_pair(side, place, least_s) for side in sides},
        rotation_seconds_per_voxel=rotation_s,
        slice_rotation_seconds_per_voxel=slice_rotation_s,
        rotation_matrix_seconds_per_pixel=matrix_s,
        batch_s=_batch(place, least_s),
        optimiser_seconds_per_voxel=_optimiser_step(place, least_s),
        regulariser_seconds_per_voxel=_regulariser(place, least_s),
        exchange_bytes_per_s=measured_rate(place.type) if two else None,
    )


def _of_size(times: dict[int, float], pixels: float) -> float:
    sides = np.array(sorted(times))
    constants = [times[side] / (side**2 * math.log2(side**2 + 1)) for side in sides.tolist()]
    return float(np.interp(math.log(pixels) / 2, np.log(sides), constants)) * pixels * math.log2(pixels + 1)


def _fft_pair(side: int, place: torch.device, least_s: float) -> float:
    wave = _waves(side, place)
    return _seconds(lambda: torch.fft.ifft2(torch.fft.fft2(wave)), place, least_s) / len(wave)


def _waves(side: int, place: torch.device) -> Tensor:
    return torch.ones((max(1, _PIXELS // side**2), side, side), dtype=torch.complex64, device=place)


def _slice_pair(side: int, place: torch.device, least_s: float) -> float:
    wave = _waves(side, place)
    delta = torch.full((_SLICES, side, side), 1e-6, device=place, requires_grad=True)
    beta = torch.full((_SLICES, side, side), 1e-8, device=place, requires_grad=True)

    def gradient() -> None:
        optics = {"wavelength_m": 1e-10, "pixel_size_m": 1e-8, "slice_thickness_m": 1e-7, "gradient": "stored"}
        exit_wave = PROPAGATIONS["multislice"](wave, delta, beta, **optics)
        (exit_wave.real**2 + exit_wave.imag**2).sum().backward()

    return _seconds(gradient, place, least_s) / (2 * len(wave) * (_SLICES + 1))


def _rotation(place: torch.device, least_s: float) -> tuple[float, float, float]:
    """Return the seconds of a rotation per voxel of the volume and of the slices, and of a new matrix per pixel.

    A rotation and its adjoint count as two, with equal cost.
    """
    volume, angles = with_y_last(torch.zeros((_SIDE,) * 3, device=place)).requires_grad_(), _new_angles()
    few_slices = _SIDE // _PLANES_PER_SLICE

    def rotate_and_back(angle: float, slices: int) -> None:
        planes = rotate(volume, angle, slices=slices)
        planes.backward(torch.ones_like(planes))

    many, few = (_seconds(lambda n=n: rotate_and_back(1.0, n), place, least_s) for n in (_SIDE, few_slices))
    new_angle = _seconds(lambda: rotate_and_back(next(angles), few_slices), place, least_s)
    of_planes = max(many - few, 1e-9) / (1 - 1 / _PLANES_PER_SLICE)
    of_volume = max(few - of_planes / _PLANES_PER_SLICE, 1e-9)
    voxels = 2 * volume.numel()
    return of_volume / voxels, of_planes / voxels, max(new_angle - few, 1e-9) / _SIDE**2


def _batch(place: torch.device, least_s: float) -> float:
    """Return the seconds of a gradient from the volume to a hologram and back, for a tiny problem."""
    geometry = ScanGeometry(
        technique="holography",
        beam=Beam(1e-10),
        detector=Detector((_SMALL_SIDE, _SMALL_SIDE), (1e-8, 1e-8), "near_field"),
        distance_m=np.full(1, 1e-6),
        angle_rad=np.ones(1),
        position_m=np.zeros((1, 2)),
    )
    model = ForwardModel(
        geometry, VolumeGrid((_SMALL_SIDE, _SMALL_SIDE, _SMALL_SIDE), (1e-8, 1e-8, 1e-8)), ModelOptions(slices=2)
    ).to(place)
    delta, beta = (with_y_last(torch.zeros((_SMALL_SIDE,) * 3, device=place)).requires_grad_() for _ in range(2))
    probe = torch.ones((1, *model.window), dtype=torch.complex64, device=place)
    return _seconds(lambda: model(delta, beta, probe, np.zeros(1, int)).sum().backward(), place, least_s)


def _optimiser_step(place: torch.device, least_s: float) -> float:
    """Return the seconds per voxel of an optimiser step with weights and positivity."""
    volume = torch.zeros((1, *(_SIDE,) * 3), device=place, requires_grad=True)
    volume.grad = torch.ones_like(volume)
    optimiser = ObjectOptimiser(volume, DescentSettings("nesterov"), lambda epoch: 1.0)
    optimiser.start(1.0, torch.ones_like(volume[0]))

    def step() -> None:
        optimiser.step()
        apply_bounds(volume.detach(), Bounds(positivity=True))

    return _seconds(step, place, least_s) / volume.numel()


def _regulariser(place: torch.device, least_s: float) -> float:
    """Return the seconds of total variation's gradient per voxel."""
    volume, gradient = torch.zeros((2, 1, *(_SIDE,) * 3), device=place)
    penalty = Priors.make({"total_variation": {"weight": 1.0}}).penalty(Scales(step_rad=1.0))
    compute = functools.partial(penalty.add_gradient, volume, gradient)
    return _seconds(compute, place, least_s) / volume.numel()


def _new_angles() -> Iterator[float]:
    number = 1
    while True:
        yield number * 0.7548776662 % math.pi
        number += 1


def _seconds(compute: Callable[[], object], place: torch.device, least_s: float) -> float:
    """Return the shortest time of a computation after a warm-up, because other processes can only add time."""
    times: list[float] = []
    compute()
    while len(times) < 3 or sum(times) < least_s:
        began = time.perf_counter()
        compute()
        synchronise(place)
        times.append(time.perf_counter() - began)
    return min(times)
