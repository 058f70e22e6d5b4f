"""Predicted cost of a plan; times need a profile of the machine."""

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
class EpochSeconds:
    """Time of an epoch for the ranks with the most work, without overlap of computation and exchange.

    Attributes:
        slices: FFT pairs and the transmissions between them.
        batches: overhead per batch of views at an angle, independent of its size.
        rotations: rotations of the volume and its gradient.
        steps: regularisers and optimiser.
        exchange: exchange between ranks; None if the profile has no rate.
    """

    slices: float
    batches: float
    rotations: float
    steps: float
    exchange: float | None

    @property
    def total(self) -> float:
        """Sum of the known times."""
        return self.slices + self.batches + self.rotations + self.steps + (self.exchange or 0.0)


@dataclass(frozen=True)
class Prediction:
    """Predicted cost of a plan.

    Attributes:
        memory: peak memory of one rank.
        exchange: bytes of rows per epoch.
        gradients: bytes that all ranks together send per epoch to sum gradients over groups of ranks.
        work: computations per epoch.
        seconds: time per epoch; None without a profile, and for finite differences, which profiles do not include.
        useful: fraction of the time that the gradient's bare FFTs would take; None if ``seconds`` is None.
    """

    memory: MemoryParts
    exchange: Exchange
    gradients: int
    work: Work
    seconds: EpochSeconds | None
    useful: float | None

    @property
    def sent_bytes(self) -> int:
        """Bytes that all ranks together send in an epoch."""
        return self.exchange.rows + self.exchange.priors + self.gradients


def predict_cost(
    plan: Plan, geometry: ScanGeometry, *, accelerator: bool, profile: MachineProfile | None
) -> Prediction:
    """Return the cost of the last fit of a plan.

    Args:
        plan: plan of the reconstruction.
        geometry: geometry of the scan.
        accelerator: whether ranks compute on GPUs.
        profile: profile of the machine; None: predict no times.
    """
    sampled = geometry.coarser(plan.coarseness).oversampled(plan.oversampling)
    exchange, work = exchange_of(plan, geometry), work_of(plan, geometry)
    seconds, useful = None, None
    if profile is not None and not plan.propagation.startswith("finite-difference"):
        window = math.prod(n + 2 * plan.margin for n in sampled.field_shape)
        voxels, (depth, _, width) = math.prod(plan.grid.shape) / plan.slabs, plan.grid.shape
        matrices = work.most_matrices * depth * width * profile.rotation_matrix_seconds_per_pixel
        seconds = EpochSeconds(
            slices=work.awaited_pairs * profile.slice_pair(window),
            batches=work.most_batches * profile.batch_s,
            rotations=work.most_rotations * voxels * rotation_seconds_per_voxel(plan, profile) + matrices,
            steps=work.steps * voxels * step_seconds_per_voxel(plan, profile),
            exchange=_exchange_seconds(plan, exchange, work.steps, profile),
        )
        useful = work.most_pairs * profile.fft_pair(window) / seconds.total
    gradients = reduced_bytes(plan, work.steps)
    return Prediction(memory_parts(plan, sampled, accelerator), exchange, gradients, work, seconds, useful)


def rotation_seconds_per_voxel(plan: Plan, profile: MachineProfile) -> float:
    """Return the seconds of a rotation per voxel of the volume, including the slices."""
    return (
        profile.rotation_seconds_per_voxel + profile.slice_rotation_seconds_per_voxel * plan.slices / plan.grid.shape[0]
    )


def step_seconds_per_voxel(plan: Plan, profile: MachineProfile) -> float:
    """Return the seconds of a step per voxel, for all parts; groups share the regularisers, and planes if divided."""
    parts = 2 if plan.fit.absorption else 1
    regularised = profile.regulariser_seconds_per_voxel * plan.slabs / plan.ranks if plan.fit.priors.weighted else 0.0
    return parts * (profile.optimiser_seconds_per_voxel / plan.ranks_sharing_planes + regularised)


def reduced_bytes(plan: Plan, steps: int) -> int:
    """Return the bytes to sum gradients over groups, for all ranks, as a ring reduction: 2·(1 − 1/groups) of each slab.

    Args:
        plan: plan of the reconstruction.
        steps: number of optimiser steps.
    """
    groups, parts = plan.ranks // plan.slabs, 2 if plan.fit.absorption else 1
    return 2 * (groups - 1) * steps * parts * math.prod(plan.grid.shape) * _FLOAT


def reduction_seconds(plan: Plan, steps: int, profile: MachineProfile) -> float:
    """Return the seconds to sum gradients over groups of ranks; 0 if the profile has no rate.

    Ranks of the same node and group send to other nodes in parallel, each through its own adapter.
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
