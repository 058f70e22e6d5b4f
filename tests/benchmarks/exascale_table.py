"""How far each way to share a reconstruction reaches: full-field holograms of cubes, up to 1 cm at 10 nm.

``python tests/benchmarks/exascale_table.py --profile this-machine.json`` prints the table of docs/scale-out.md, with
the times that ``multislice plan --measure this-machine.json`` has measured; without a profile it has no hours.

Only what grows is counted: the volume-sized state, one rank's planes and waves, FFT pairs, turns, and network bytes.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bluesky_multislice.cli.plan_scan import number_text
from bluesky_multislice.measurement import depth_of_field_m
from bluesky_multislice.optics import halo_pixels, thickest_slice_m
from bluesky_multislice.planning import MachineProfile, read_profile
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.units import wavelength_m_from_energy

Scheme = Literal["data parallelism", "slabs", "tiles"]

STATE_BYTES = 40
"""Bytes a voxel: δ and β with gradient, momentum and best copy, a gradient on its way, and weights;
``planning.cost.memory`` counts the same for holograms of several angles."""

_SIDES = (256, 1024, 4096, 16384, 65536, 262144, 10**6)
_SCHEMES = ("data parallelism", "slabs", "tiles")
_LAPTOP_BYTES = 16e9

_STEPS_AN_EPOCH = 20
"""Of the optimiser, each of which adds up the gradients of all groups of ranks."""

_PAIRS_A_SLICE = 3
"""There, back, and waves computed again."""

_OBJECT_BYTES = 8
"""Bytes of δ and β of a voxel."""


@dataclass(frozen=True)
class Supercomputer:
    """What computes.

    Attributes:
        nodes: how many there are.
        gpus_per_node: GPUs of each.
        gpu_memory_bytes: memory of a GPU.
        network_bytes_per_s: that a GPU sends and receives.
        pair_seconds_per_pixel: seconds of an FFT pair over pixels · log₂ pixels, with other operations; None: unknown.
        rotation_seconds_per_voxel: seconds to turn a voxel.
        rotation_matrix_seconds_per_pixel: seconds of a new angle, over the pixels of a plane (z, x).
    """

    nodes: int
    gpus_per_node: int
    gpu_memory_bytes: float
    network_bytes_per_s: float
    pair_seconds_per_pixel: float | None
    rotation_seconds_per_voxel: float = 0.0
    rotation_matrix_seconds_per_pixel: float = 0.0

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Case:
    """A cube in full-field holograms of half a turn.

    Attributes:
        side: voxels on a side.
        pixel_m: size of a voxel.
        wavelength_m: wavelength.
        accuracy: relative error of the scattered wave that slices and halos may bring.
        epochs: of the fit.
    """

    side: int
    pixel_m: float
    wavelength_m: float
    accuracy: float
    epochs: int

    @property
    def thickness_m(self) -> float:
        """Size of the cube."""
        return self.side * self.pixel_m

    @property
    def slices(self) -> int:
        """Slices along the beam that the accuracy needs."""
        depth = depth_of_field_m(self.pixel_m, self.wavelength_m)
        return math.ceil(self.thickness_m / thickest_slice_m(self.accuracy, depth_of_field_m=depth))

    @property
    def angles(self) -> int:
        """Angles that sample the cube's rim by its voxels (Crowther): π/2 for every voxel of a side."""
        return math.ceil(math.pi / 2 * self.side)

    @property
    def halo(self) -> int:
        """Pixels around a tile."""
        optics = {"wavelength_m": self.wavelength_m, "distance_m": self.thickness_m, "pixel_size_m": self.pixel_m}
        return halo_pixels(self.accuracy, **optics)

    def memory_bytes(self, slabs: int, rows: float) -> float:
        """Return the bytes of a rank that holds one of some slabs, and computes so many rows of a field.

        Planes are held three times (padded, on their way, as gradients) and seven waves, beside two frames.
        """
        row = self.side * (3 * _OBJECT_BYTES * self.slices + 7 * 8 + 2 * 4)
        return STATE_BYTES * self.side**3 / slabs + rows * row

    def rows(self, scheme: Scheme, slabs: int) -> float:
        """Return the rows of a field that a rank computes: all, or a strip of tiles with a halo on either side."""
        return min(self.side / slabs + 2 * self.halo, self.side) if scheme == "tiles" else self.side


@dataclass(frozen=True)
class Cost:
    """What a scheme takes.

    Attributes:
        scheme: how the work is shared.
        memory_bytes: of a GPU; where it does not fit, the least that one would need.
        slabs: that the volume is cut into.
        nodes: that are put to use, None where it does not fit.
        hours: of all epochs; None where it does not fit, or the speed is not known.
    """

    scheme: Scheme
    memory_bytes: float
    slabs: int
    nodes: int | None
    hours: float | None


def outlook(case: Case, scheme: Scheme, machine: Supercomputer) -> Cost:
    """Return what a scheme takes on all of a machine that it can use.

    The volume is cut into as few slabs as fit; groups of as many GPUs share the views. Exchange is not overlapped.

    Args:
        case: what is reconstructed.
        scheme: ``data parallelism`` holds the volume on every GPU; ``slabs`` gathers each view's whole window on one
            GPU; ``tiles`` computes each view on all GPUs of a group, each its strip of rows with a halo.
        machine: what computes.
    """
    most = 1 if scheme == "data parallelism" else min(machine.gpus, case.side)
    room = machine.gpu_memory_bytes
    if (least := case.memory_bytes(most, case.rows(scheme, most))) > room:
        return Cost(scheme, least, most, None, None)
    slabs = _fewest(case, scheme, most, room)
    groups = min(machine.gpus // slabs, case.angles)
    memory_bytes = case.memory_bytes(slabs, case.rows(scheme, slabs))
    nodes = math.ceil(groups * slabs / machine.gpus_per_node)
    return Cost(scheme, memory_bytes, slabs, nodes, _hours(case, scheme, machine, slabs, groups))


def _fewest(case: Case, scheme: Scheme, most: int, room: float) -> int:
    """Return the smallest number of slabs that fits, by halving; ``most`` fits."""
    too_few, enough = 0, most
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if case.memory_bytes(middle, case.rows(scheme, middle)) <= room:
            enough = middle
        else:
            too_few = middle
    return enough


def _hours(case: Case, scheme: Scheme, machine: Supercomputer, slabs: int, groups: int) -> float | None:
    if machine.pair_seconds_per_pixel is None:
        return None
    rows = case.rows(scheme, slabs)
    # Of tiles, every GPU of a group has a part of each view; else a GPU has whole views of its own.
    sharing = groups if scheme == "tiles" else groups * slabs
    views = math.ceil(case.angles / min(sharing, case.angles))
    pixels = rows * case.side
    pairs = _PAIRS_A_SLICE * (case.slices + 1) + 2
    computing = pairs * machine.pair_seconds_per_pixel * pixels * math.log2(pixels)
    # There for the object and back for the gradient.
    sent = 2 * (rows - case.side / slabs) * case.side * case.slices * _OBJECT_BYTES
    reduced = 2 * (1 - 1 / groups) * _OBJECT_BYTES * case.side**3 / slabs * _STEPS_AN_EPOCH
    # Every GPU of a group turns its rows of δ and β for each view of the group, there and back.
    a_turn = (
        4 * case.side**3 / slabs * machine.rotation_seconds_per_voxel
        + case.side**2 * machine.rotation_matrix_seconds_per_pixel
    )
    turning = math.ceil(case.angles / groups) * a_turn
    epoch = views * (computing + sent / machine.network_bytes_per_s) + reduced / machine.network_bytes_per_s + turning
    return case.epochs * epoch / 3600


def main(words: list[str] | None = None) -> None:
    """Print the table that options describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, help="measured times (JSON)")
    parser.add_argument("--nodes", type=int, default=9400, help="of the machine")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--gpu-memory-gb", type=float, default=64.0)
    parser.add_argument("--network-gb-s", type=float, default=12.5, help="of a GPU")
    parser.add_argument(
        "--times-faster", type=float, default=300.0, help="a GPU over a rank of the profile, an assumption"
    )
    parser.add_argument("--pixel-nm", type=float, default=10.0, help="size of a voxel")
    parser.add_argument("--energy-kev", type=float, default=12.4)
    parser.add_argument("--accuracy", type=float, default=Recipe().accuracy, help="of the scattered wave")
    parser.add_argument("--epochs", type=int, default=25)
    chosen = parser.parse_args(words)
    print("\n".join(table_lines(chosen, None if chosen.profile is None else read_profile(chosen.profile))))


def table_lines(chosen: argparse.Namespace, profile: MachineProfile | None) -> list[str]:
    """Return a table in Markdown, from a laptop to the machine that was chosen."""
    laptop = _machine(1, 1, _LAPTOP_BYTES, math.inf, profile, times_faster=1.0)
    machine = _machine(
        chosen.nodes,
        chosen.gpus_per_node,
        chosen.gpu_memory_gb * 1e9,
        chosen.network_gb_s * 1e9,
        profile,
        chosen.times_faster,
    )
    wavelength_m = wavelength_m_from_energy(chosen.energy_kev * 1e3)
    first, *cases = (
        Case(side, chosen.pixel_nm * 1e-9, wavelength_m, chosen.accuracy, chosen.epochs) for side in _SIDES
    )
    return [
        f"Full-field holograms, voxels of {chosen.pixel_nm:g} nm, {chosen.energy_kev:g} keV, accuracy "
        f"{chosen.accuracy:g}, {chosen.epochs} epochs. Laptop: one rank, {number_text(_LAPTOP_BYTES)}B. "
        f"Machine: {machine.nodes} nodes of {machine.gpus_per_node} GPUs of {number_text(machine.gpu_memory_bytes)}B, "
        f"{number_text(machine.network_bytes_per_s)}B/s each; {_speed(profile, chosen.times_faster)}.",
        "",
        "| voxels a side | size | slices | angles | scheme | GPUs a volume | nodes | memory a node | hours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        _row(first, outlook(first, "data parallelism", laptop), 1, "laptop"),
        *(
            _row(case, outlook(case, scheme, machine), machine.gpus_per_node, scheme)
            for case in cases
            for scheme in _SCHEMES
        ),
    ]


def _machine(
    nodes: int,
    gpus_per_node: int,
    gpu_memory_bytes: float,
    network_bytes_per_s: float,
    profile: MachineProfile | None,
    times_faster: float,
) -> Supercomputer:
    """Return a machine, its speed from the profile."""
    sizes = nodes, gpus_per_node, gpu_memory_bytes, network_bytes_per_s
    if profile is None:
        return Supercomputer(*sizes, pair_seconds_per_pixel=None)
    pixels = max(profile.slice_pair_s) ** 2
    return Supercomputer(
        *sizes,
        pair_seconds_per_pixel=profile.slice_pair(pixels) / (pixels * math.log2(pixels)) / times_faster,
        rotation_seconds_per_voxel=profile.rotation_seconds_per_voxel / times_faster,
        rotation_matrix_seconds_per_pixel=profile.rotation_matrix_seconds_per_pixel / times_faster,
    )


def _speed(profile: MachineProfile | None, times_faster: float) -> str:
    if profile is None:
        return "no profile, so no hours"
    return f"a GPU {times_faster:g} times as fast as a rank of {profile.machine} ({profile.threads} thread(s))"


def _row(case: Case, cost: Cost, gpus_per_node: int, scheme: str) -> str:
    size = f"{case.side:,} | {number_text(case.thickness_m)}m | {case.slices:,} | {case.angles:,} | {scheme}"
    if cost.nodes is None:
        return f"| {size} | {cost.slabs:,} | does not fit | {number_text(cost.memory_bytes)}B a GPU, at least | – |"
    memory = number_text(cost.memory_bytes * gpus_per_node)
    hours = "–" if cost.hours is None else f"{cost.hours:.2g}" if cost.hours < 100 else f"{cost.hours:,.0f}"
    return f"| {size} | {cost.slabs:,} | {cost.nodes:,} | {memory}B | {hours} |"


if __name__ == "__main__":
    main()
