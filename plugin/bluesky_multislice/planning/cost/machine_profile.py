"""How fast a machine is: measured once, kept in a file, and read by predictions."""

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
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel
from bluesky_multislice.optics import PROPAGATIONS, rotate, with_y_last
from bluesky_multislice.optics.accelerator import accelerator_count, chosen_type, name_of, synchronise
from bluesky_multislice.parallel import measured_rate
from bluesky_multislice.solvers import ObjectOptimiser, Priors, add_gradient_of_penalty, apply_bounds

_SIDES = (64, 128, 256, 512)
_SLICES, _TURNED, _A_SLICE, _FEW = 8, 128, 8, 8

_PIXELS = 2**17
"""Pixels of all waves that are timed together, as many as stay in a processor's cache."""

_Positive = Annotated[float, Field(gt=0)]
_Times = Annotated[dict[Annotated[int, Field(gt=0)], _Positive], Field(min_length=1)]


class MachineProfile(BaseModel):
    """Times of one rank of a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, title="Machine profile")

    machine: str = Field(description="What was measured.")
    device: str = Field(description="Type of device: cpu, cuda or xpu.")
    threads: int = Field(ge=1, description="Threads of the rank.")
    fft_pair_s: _Times = Field(description="Pixels on a side of a window → seconds of its FFT pair.")
    slice_pair_s: _Times = Field(
        description="The same with all that multislice and its gradient do beside each FFT pair."
    )
    rotation_seconds_per_voxel: float = Field(gt=0, description="Seconds to turn one voxel of a volume.")
    slice_rotation_seconds_per_voxel: float = Field(
        gt=0, description="The same for one voxel of the slices that it is turned into."
    )
    rotation_matrix_seconds_per_pixel: float = Field(
        gt=0, description="Seconds to make the matrix of a turn by a new angle, over the pixels of a plane (z, x)."
    )
    batch_s: float = Field(gt=0, description="Seconds of a batch's gradient in which next to nothing is computed.")
    optimiser_seconds_per_voxel: float = Field(gt=0, description="Seconds of the optimiser for one voxel.")
    regulariser_seconds_per_voxel: float = Field(
        gt=0, description="Seconds of total variation's gradient for one voxel."
    )
    exchange_bytes_per_s: float | None = Field(
        default=None, gt=0, description="Bytes a second that each of two ranks sends to the other; None: not measured."
    )
    network_bytes_per_s: float | None = Field(
        default=None, gt=0, description="The same of ranks on two nodes; None: as on one."
    )
    ranks_per_node: int | None = Field(default=None, ge=1, description="Ranks that share a node; None: all.")
    measured: bool = Field(default=True, description="Whether it was measured; else it follows from a data sheet.")

    def slice_pair(self, pixels: float) -> float:
        """Return the seconds of an FFT pair of a window in multislice, by pixels · log(pixels) of measured ones.

        Args:
            pixels: of the window.
        """
        return _of_size(self.slice_pair_s, pixels)

    def fft_pair(self, pixels: float) -> float:
        """Return the seconds of a bare FFT pair of a window of so many pixels."""
        return _of_size(self.fft_pair_s, pixels)


def read_profile(path: Path) -> MachineProfile:
    """Read a profile.

    Raises:
        PlanError: it cannot be read, or is not one.
    """
    try:
        return MachineProfile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise PlanError(
            "A machine profile is a JSON file that multislice plan --measure has written.",
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
            "A machine profile needs a file that can be written.", got=f"{path}: {exc}", remedy="choose another place."
        ) from exc


def measure_machine(device: str, *, sides: tuple[int, ...] = _SIDES, least_s: float = 0.3) -> MachineProfile:
    """Time one rank on this machine, and what two of them exchange.

    Args:
        device: of the recipe.
        sides: pixels on a side of the windows.
        least_s: seconds that each measurement takes at least.
    """
    place = torch.device(chosen_type(device))
    name = name_of(place) or f"{platform.system()} {platform.machine()}"
    # Two ranks cannot share a GPU.
    two = place.type == "cpu" or accelerator_count() > 1
    turn_s, turned_s, matrix_s = _turn(place, least_s)
    return MachineProfile(
        machine=name,
        device=place.type,
        threads=torch.get_num_threads(),
        fft_pair_s={side: _fft_pair(side, place, least_s) for side in sides},
        slice_pair_s={side: _slice_pair(side, place, least_s) for side in sides},
        rotation_seconds_per_voxel=turn_s,
        slice_rotation_seconds_per_voxel=turned_s,
        rotation_matrix_seconds_per_pixel=matrix_s,
        batch_s=_batch(place, least_s),
        optimiser_seconds_per_voxel=_move(place, least_s),
        regulariser_seconds_per_voxel=_regularise(place, least_s),
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


def _turn(place: torch.device, least_s: float) -> tuple[float, float, float]:
    """Return the seconds of a turn for a voxel of the volume and of the slices, and of a new matrix for a pixel.

    A turn there and one back are two, and cost alike.
    """
    volume, angles = with_y_last(torch.zeros((_TURNED,) * 3, device=place)).requires_grad_(), _new_angles()
    thin = _TURNED // _A_SLICE

    def turn(angle: float, slices: int) -> None:
        planes = rotate(volume, angle, slices=slices)
        planes.backward(torch.ones_like(planes))

    whole, few = (_seconds(lambda n=n: turn(1.0, n), place, least_s) for n in (_TURNED, thin))
    anew = _seconds(lambda: turn(next(angles), thin), place, least_s)
    of_planes = max(whole - few, 1e-9) / (1 - 1 / _A_SLICE)
    of_volume = max(few - of_planes / _A_SLICE, 1e-9)
    voxels = 2 * volume.numel()
    return of_volume / voxels, of_planes / voxels, max(anew - few, 1e-9) / _TURNED**2


def _batch(place: torch.device, least_s: float) -> float:
    """Return the seconds of a gradient from the volume to a hologram and back, where all of them are tiny."""
    geometry = ScanGeometry(
        technique="holography",
        beam=Beam(1e-10),
        detector=Detector((_FEW, _FEW), (1e-8, 1e-8), "near_field"),
        distance_m=np.full(1, 1e-6),
        angle_rad=np.ones(1),
        position_m=np.zeros((1, 2)),
    )
    model = ForwardModel(geometry, VolumeGrid((_FEW, _FEW, _FEW), (1e-8, 1e-8, 1e-8)), slices=2).to(place)
    delta, beta = (with_y_last(torch.zeros((_FEW,) * 3, device=place)).requires_grad_() for _ in range(2))
    probe = torch.ones((1, *model.window), dtype=torch.complex64, device=place)
    return _seconds(lambda: model(delta, beta, probe, np.zeros(1, int)).sum().backward(), place, least_s)


def _move(place: torch.device, least_s: float) -> float:
    """Return the seconds in which a voxel is moved along its weighted gradient and kept from going negative."""
    volume = torch.zeros((1, *(_TURNED,) * 3), device=place, requires_grad=True)
    volume.grad = torch.ones_like(volume)
    optimiser = ObjectOptimiser(
        volume,
        name="nesterov",
        factor=1.0,
        adam_step=0.0,
        adam_floor=0.0,
        momentum=0.95,
        relative_step=lambda epoch: 1.0,
    )
    optimiser.start(1.0, torch.ones_like(volume[0]))

    def move() -> None:
        optimiser.step()
        apply_bounds(volume.detach(), Priors(), positivity=True, support=None)

    return _seconds(move, place, least_s) / volume.numel()


def _regularise(place: torch.device, least_s: float) -> float:
    """Return the seconds of total variation's gradient in a voxel."""
    volume, gradient = torch.zeros((2, 1, *(_TURNED,) * 3), device=place)
    once = functools.partial(add_gradient_of_penalty, volume, gradient, Priors(total_variation=1.0), 1.0, 0.0)
    return _seconds(once, place, least_s) / volume.numel()


def _new_angles() -> Iterator[float]:
    number = 1
    while True:
        yield number * 0.7548776662 % math.pi
        number += 1


def _seconds(compute: Callable[[], object], place: torch.device, least_s: float) -> float:
    """Return the least time of a computation, to which others on the machine only add, after one that warms up."""
    times: list[float] = []
    compute()
    while len(times) < 3 or sum(times) < least_s:
        began = time.perf_counter()
        compute()
        synchronise(place)
        times.append(time.perf_counter() - began)
    return min(times)
