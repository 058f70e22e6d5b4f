"""What a plan costs, from the plan alone and, for time, from a measured profile of the machine."""

import math
from dataclasses import dataclass

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.planning.cost.exchange import Exchange, exchange_of
from bluesky_multislice.planning.cost.machine_profile import MachineProfile
from bluesky_multislice.planning.cost.memory import MemoryParts, memory_parts
from bluesky_multislice.planning.cost.work import Work, work_of
from bluesky_multislice.planning.plan import Plan

_FLOAT = 4


@dataclass(frozen=True)
class Seconds:
    """Time of an epoch of the ranks that have most to do, as if nothing overlapped.

    Attributes:
        slices: FFT pairs with the transmissions between them.
        batches: what a batch of views at an angle takes besides, however few they are.
        turns: turning the volume and its gradient.
        steps: regularisers, and moving the volume.
        exchange: None where the profile has no rate of it.
    """

    slices: float
    batches: float
    turns: float
    steps: float
    exchange: float | None

    @property
    def total(self) -> float:
        """All together, of what is known."""
        return self.slices + self.batches + self.turns + self.steps + (self.exchange or 0.0)


@dataclass(frozen=True)
class Prediction:
    """What a plan costs.

    Attributes:
        memory: of one rank at its peak.
        exchange: bytes of rows an epoch.
        gradients: bytes that all ranks together send in an epoch to add up the gradients of groups of ranks.
        work: what is computed in an epoch.
        seconds: of an epoch; None without a profile, and for finite differences, which a profile does not measure.
        useful: part of these seconds in which bare FFTs of the gradient are computed; None where ``seconds`` is.
    """

    memory: MemoryParts
    exchange: Exchange
    gradients: int
    work: Work
    seconds: Seconds | None
    useful: float | None

    @property
    def sent_bytes(self) -> int:
        """Bytes that all ranks together send in an epoch."""
        return self.exchange.rows + self.exchange.priors + self.gradients


def predict_cost(
    plan: Plan, geometry: ScanGeometry, *, accelerator: bool, profile: MachineProfile | None
) -> Prediction:
    """Return what the last fit of a plan costs.

    Args:
        plan: of the reconstruction.
        geometry: of the scan.
        accelerator: whether ranks compute on GPUs.
        profile: of the machine that computes; None predicts no time.
    """
    sampled = geometry.coarser(plan.coarseness).oversampled(plan.oversampling)
    exchange, work = exchange_of(plan, geometry), work_of(plan, geometry)
    seconds, useful = None, None
    if profile is not None and not plan.propagation.startswith("finite-difference"):
        window = math.prod(n + 2 * plan.margin for n in sampled.field_shape)
        voxels, (depth, _, width) = math.prod(plan.grid.shape) / plan.slabs, plan.grid.shape
        matrices = work.most_matrices * depth * width * profile.rotation_matrix_seconds_per_pixel
        seconds = Seconds(
            slices=work.awaited_pairs * profile.slice_pair(window),
            batches=work.most_batches * profile.batch_s,
            turns=work.most_rotations * voxels * rotation_seconds_per_voxel(plan, profile) + matrices,
            steps=work.steps * voxels * step_seconds_per_voxel(plan, profile),
            exchange=_exchange_seconds(plan, exchange, work.steps, profile),
        )
        useful = work.most_pairs * profile.fft_pair(window) / seconds.total
    gradients = reduced_bytes(plan, work.steps)
    return Prediction(memory_parts(plan, sampled, accelerator), exchange, gradients, work, seconds, useful)


def rotation_seconds_per_voxel(plan: Plan, profile: MachineProfile) -> float:
    """Return the seconds of a turn for a voxel of the volume, its part of the slices included."""
    return (
        profile.rotation_seconds_per_voxel + profile.slice_rotation_seconds_per_voxel * plan.slices / plan.grid.shape[0]
    )


def step_seconds_per_voxel(plan: Plan, profile: MachineProfile) -> float:
    """Return the seconds of a step for a voxel of all parts; groups of ranks share the regularisers, and what moves."""
    parts = 2 if plan.fit.absorption else 1
    regularised = profile.regulariser_seconds_per_voxel * plan.slabs / plan.ranks if plan.fit.priors.weighted else 0.0
    return parts * (profile.optimiser_seconds_per_voxel / plan.ranks_sharing_planes + regularised)


def reduced_bytes(plan: Plan, steps: int) -> int:
    """Return the bytes that all ranks send to add up gradients over groups, in a ring: 2·(1 − 1/groups) of each slab.

    Args:
        plan: of the reconstruction.
        steps: of the optimiser.
    """
    groups, parts = plan.ranks // plan.slabs, 2 if plan.fit.absorption else 1
    return 2 * (groups - 1) * steps * parts * math.prod(plan.grid.shape) * _FLOAT


def reduction_seconds(plan: Plan, steps: int, profile: MachineProfile) -> float:
    """Return the seconds in which groups of ranks add up their gradients; 0 where the profile has no rate.

    Those of a node that are in one group send to other nodes side by side, each by its own adapter.
    """
    rate = profile.exchange_bytes_per_s
    if rate is None:
        return 0.0
    per_node = profile.ranks_per_node or plan.ranks
    if plan.ranks > per_node and profile.network_bytes_per_s is not None:
        rate = min(rate, profile.network_bytes_per_s * max(1, per_node // plan.slabs))
    return reduced_bytes(plan, steps) / plan.ranks / rate


def _exchange_seconds(plan: Plan, exchange: Exchange, steps: int, profile: MachineProfile) -> float | None:
    rows, rate = exchange.rows + exchange.priors, profile.exchange_bytes_per_s
    if rows + reduced_bytes(plan, steps) == 0:
        return 0.0
    if rate is None:
        return None
    if plan.slabs > (profile.ranks_per_node or plan.slabs):
        rate = profile.network_bytes_per_s or rate
    return rows / plan.ranks / rate + reduction_seconds(plan, steps, profile)
