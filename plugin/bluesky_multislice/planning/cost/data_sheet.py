"""Machines as their makers describe them: the profile that predictions have where nobody has measured."""

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
"""Of a pair: two transforms, each in two passes that read and write eight bytes."""

_WAVE_BYTES_PER_PIXEL = 8

_ENOUGH = 0.9
"""Part of a data sheet's memory from which on a GPU is taken for one of its kind: some of it is never free."""

_Positive = Annotated[float, Field(gt=0)]


class BytesPerVoxel(BaseModel):
    """What is read and written of a volume for each of its voxels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turn: _Positive
    turned: _Positive
    move: _Positive
    regularise: _Positive


class DataSheet(BaseModel):
    """What a maker says of the place of one rank, and what is assumed beside it; see ``data_sheets.toml``.

    Attributes:
        name: what it is.
        source: where the figures come from.
        device: as of a profile.
        memory_gb: memory of the rank.
        memory_bytes_per_s: that it reads and writes.
        flop_per_s: operations in single precision.
        cache_bytes: of a wave that is computed without its memory.
        link_bytes_per_s: that it sends to others of its node.
        network_bytes_per_s: that it sends to other nodes.
        ranks_per_node: how many share a node.
        memory_efficiency: part of the memory's rate that is reached.
        flop_efficiency: part of the operations' rate that FFTs reach.
        link_efficiency: part of the rates of links and network that collectives reach.
        slice_over_fft: time of a slice's gradient over that of its FFTs.
        bytes_per_voxel: of volumes.
        batch_s: see ``MachineProfile``.
        matrix_s_per_pixel: see ``MachineProfile``.
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
        """The times of a rank that follow."""
        fft_pair_s = {side: self._fft_pair_s(side) for side in _SIDES}
        voxel_s = {name: size / self._memory_rate for name, size in self.bytes_per_voxel.model_dump().items()}
        return MachineProfile(
            machine=self.name,
            device=self.device,
            threads=1,
            fft_pair_s=fft_pair_s,
            slice_pair_s={side: self.slice_over_fft * seconds for side, seconds in fft_pair_s.items()},
            rotation_seconds_per_voxel=voxel_s["turn"],
            slice_rotation_seconds_per_voxel=voxel_s["turned"],
            rotation_matrix_seconds_per_pixel=self.matrix_s_per_pixel,
            batch_s=self.batch_s,
            optimiser_seconds_per_voxel=voxel_s["move"],
            regulariser_seconds_per_voxel=voxel_s["regularise"],
            exchange_bytes_per_s=self.link_bytes_per_s * self.link_efficiency,
            network_bytes_per_s=self.network_bytes_per_s * self.link_efficiency,
            ranks_per_node=self.ranks_per_node,
            measured=False,
        )

    @property
    def _memory_rate(self) -> float:
        return self.memory_bytes_per_s * self.memory_efficiency

    def _fft_pair_s(self, side: int) -> float:
        """Return the seconds of an FFT pair of a window: as long as its operations or its memory take."""
        pixels = side**2
        computing = 10 * pixels * math.log2(pixels) / (self.flop_per_s * self.flop_efficiency)
        cached = pixels * _WAVE_BYTES_PER_PIXEL <= self.cache_bytes
        return max(computing, 0.0 if cached else _FFT_BYTES_PER_PIXEL * pixels / self._memory_rate)


@functools.cache
def data_sheets() -> dict[str, DataSheet]:
    """Return the machines that the package knows, by name."""
    text = files("bluesky_multislice.planning.cost").joinpath("data_sheets.toml").read_text()
    return {name: DataSheet.model_validate(values) for name, values in tomllib.loads(text).items()}


def machine_name(machine: Machine) -> str:
    """Return which of the known machines is most like one: by the memory of its GPUs, the largest that it may be."""
    if not machine.accelerator:
        return "cpu-node"
    by_memory = ("h200", "a100", "mi250")
    sheets = data_sheets()
    enough = (name for name in by_memory if machine.memory_bytes >= _ENOUGH * sheets[name].memory_gb * 1e9)
    return next(enough, "a100")
