"""Machine profiles from data sheets, for predictions without a measurement."""

import functools
import math
import tomllib
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bluesky_multislice.planning.cost.machine_profile import MachineProfile
from bluesky_multislice.planning.machine import Machine

_SIDES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

_FFT_BYTES_PER_PIXEL = 64
"""Memory traffic of an FFT pair: two transforms, each in two passes that read and write eight bytes."""

_WAVE_BYTES_PER_PIXEL = 8

_ENOUGH = 0.9
"""Smallest memory of a GPU relative to its data sheet, because some of it is never free."""

_Positive = Annotated[float, Field(gt=0)]


class BytesPerVoxel(BaseModel):
    """Memory traffic per voxel of a volume, in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation: _Positive
    slice_rotation: _Positive
    optimiser: _Positive
    regulariser: _Positive


class DataSheet(BaseModel):
    """Data sheet values of one rank, and assumed efficiencies; see ``data_sheets.toml``.

    Attributes:
        name: name of the device.
        source: source of the figures.
        device: type of device, as in a profile.
        memory_gb: memory per rank.
        memory_bytes_per_s: memory bandwidth.
        flop_per_s: single-precision operations per second.
        cache_bytes: largest wave that is computed in the cache.
        link_bytes_per_s: bandwidth to other ranks of the node.
        network_bytes_per_s: bandwidth to other nodes.
        ranks_per_node: ranks per node.
        memory_efficiency: achieved fraction of the memory bandwidth.
        flop_efficiency: fraction of the peak operations that FFTs achieve.
        link_efficiency: fraction of link and network bandwidth that collectives achieve.
        slice_over_fft: ratio of times, a slice's gradient to its FFTs.
        bytes_per_voxel: memory traffic of volumes.
        batch_s: see ``MachineProfile``.
        matrix_s_per_pixel: see ``MachineProfile.rotation_matrix_seconds_per_pixel``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    source: str
    device: Literal["cpu", "cuda"]
    memory_gb: _Positive
    memory_bytes_per_s: _Positive
    flop_per_s: _Positive
    cache_bytes: int = Field(ge=0)
    link_bytes_per_s: _Positive
    network_bytes_per_s: _Positive
    ranks_per_node: int = Field(ge=1)
    memory_efficiency: float = Field(gt=0, le=1)
    flop_efficiency: float = Field(gt=0, le=1)
    link_efficiency: float = Field(gt=0, le=1)
    slice_over_fft: float = Field(ge=1)
    bytes_per_voxel: BytesPerVoxel
    batch_s: _Positive
    matrix_s_per_pixel: _Positive

    @property
    def profile(self) -> MachineProfile:
        """The profile of a rank that follows from the data sheet."""
        fft_pair_s = {side: self._fft_pair_s(side) for side in _SIDES}
        voxel_s = {name: size / self._memory_rate for name, size in self.bytes_per_voxel.model_dump().items()}
        return MachineProfile(
            machine=self.name,
            device=self.device,
            threads=1,
            fft_pair_s=fft_pair_s,
            slice_pair_s={side: self.slice_over_fft * seconds for side, seconds in fft_pair_s.items()},
            rotation_seconds_per_voxel=voxel_s["rotation"],
            slice_rotation_seconds_per_voxel=voxel_s["slice_rotation"],
            rotation_matrix_seconds_per_pixel=self.matrix_s_per_pixel,
            batch_s=self.batch_s,
            optimiser_seconds_per_voxel=voxel_s["optimiser"],
            regulariser_seconds_per_voxel=voxel_s["regulariser"],
            exchange_bytes_per_s=self.link_bytes_per_s * self.link_efficiency,
            network_bytes_per_s=self.network_bytes_per_s * self.link_efficiency,
            ranks_per_node=self.ranks_per_node,
            measured=False,
        )

    @property
    def _memory_rate(self) -> float:
        return self.memory_bytes_per_s * self.memory_efficiency

    def _fft_pair_s(self, side: int) -> float:
        """Return the seconds of an FFT pair of a window, limited by either operations or memory."""
        pixels = side**2
        computing = 10 * pixels * math.log2(pixels) / (self.flop_per_s * self.flop_efficiency)
        cached = pixels * _WAVE_BYTES_PER_PIXEL <= self.cache_bytes
        return max(computing, 0.0 if cached else _FFT_BYTES_PER_PIXEL * pixels / self._memory_rate)


@functools.cache
def data_sheets() -> dict[str, DataSheet]:
    """Return the data sheets of known machines, by name."""
    text = files("bluesky_multislice.planning.cost").joinpath("data_sheets.toml").read_text()
    return {name: DataSheet.model_validate(values) for name, values in tomllib.loads(text).items()}


def machine_name(machine: Machine) -> str:
    """Return the known machine most similar to this one: the largest GPU that its memory allows."""
    if not machine.accelerator:
        return "cpu-node"
    by_memory = ("h200", "a100", "mi250")
    sheets = data_sheets()
    enough = (name for name in by_memory if machine.memory_bytes >= _ENOUGH * sheets[name].memory_gb * 1e9)
    return next(enough, "a100")
