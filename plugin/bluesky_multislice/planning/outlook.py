"""How far each way to share a reconstruction reaches: full-field holograms of cubes, up to 1 cm at 10 nm.

Only what grows is counted: the volume-sized state, one rank's planes and waves, FFT pairs, turns, and network bytes.
"""

import math
from dataclasses import dataclass
from typing import Literal

from bluesky_multislice.measurement.geometry import depth_of_field_m
from bluesky_multislice.optics import halo_pixels, thickest_slice_m

Scheme = Literal["data parallelism", "slabs", "tiles"]

STATE_BYTES = 40
"""Bytes a voxel: δ and β with gradient, momentum and best copy, a gradient on its way, and weights;
``planning.memory`` counts the same for holograms of several angles."""

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
        network_bytes_a_s: that a GPU sends and receives.
        pair_s_a_pixel: seconds of an FFT pair over pixels · log₂ pixels, with all that comes with it; None: not known.
        turn_s_a_voxel: seconds to turn a voxel.
        matrix_s_a_pixel: seconds of a new angle, over the pixels of a plane (z, x).
    """

    nodes: int
    gpus_per_node: int
    gpu_memory_bytes: float
    network_bytes_a_s: float
    pair_s_a_pixel: float | None
    turn_s_a_voxel: float = 0.0
    matrix_s_a_pixel: float = 0.0

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
    if machine.pair_s_a_pixel is None:
        return None
    rows = case.rows(scheme, slabs)
    # Of tiles, every GPU of a group has a part of each view; else a GPU has whole views of its own.
    sharing = groups if scheme == "tiles" else groups * slabs
    views = math.ceil(case.angles / min(sharing, case.angles))
    pixels = rows * case.side
    pairs = _PAIRS_A_SLICE * (case.slices + 1) + 2
    computing = pairs * machine.pair_s_a_pixel * pixels * math.log2(pixels)
    # There for the object and back for the gradient.
    sent = 2 * (rows - case.side / slabs) * case.side * case.slices * _OBJECT_BYTES
    reduced = 2 * (1 - 1 / groups) * _OBJECT_BYTES * case.side**3 / slabs * _STEPS_AN_EPOCH
    # Every GPU of a group turns its rows of δ and β for each view of the group, there and back.
    a_turn = 4 * case.side**3 / slabs * machine.turn_s_a_voxel + case.side**2 * machine.matrix_s_a_pixel
    turning = math.ceil(case.angles / groups) * a_turn
    epoch = views * (computing + sent / machine.network_bytes_a_s) + reduced / machine.network_bytes_a_s + turning
    return case.epochs * epoch / 3600
