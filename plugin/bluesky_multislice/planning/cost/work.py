"""What is computed in an epoch: Fourier transforms and turns, counted before anything is allocated."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.optics import BETWEEN_MID_PLANES, kept_turns
from bluesky_multislice.planning.cost.exchange import batches_of, steps_of
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.solvers import Quantity

_MOVING: frozenset[Quantity] = frozenset({"positions", "axis_shift"})
"""Quantities whose refinement moves each view's probe."""


_JUDGED = 0.46
"""Time of a batch that is only expected over that of one whose gradient is taken, both tiny, as measured."""


@dataclass(frozen=True)
class Work:
    """What is computed in an epoch.

    Attributes:
        pairs: pairs of two-dimensional FFTs of a whole window, of all ranks; tiles count by their pixels.
        most_pairs: those of the rank that has most.
        awaited_pairs: those that the ranks of an angle compute or wait for, of the group that has most: they meet after
            every batch at an angle, when the one that has most of it is done.
        most_rotations: rotations of one part of its slab by the rank that has most; the adjoint rotation of a gradient
            counts as another.
        most_matrices: turns whose matrix is new to that rank.
        most_batches: batches of the rank that has most, each of views at one angle; one held back counts as 0.46.
        steps: of the optimiser.
    """

    pairs: float
    most_pairs: float
    awaited_pairs: float
    most_rotations: int
    most_matrices: int
    most_batches: float
    steps: int


def work_of(plan: Plan, geometry: ScanGeometry) -> Work:
    """Return what is computed in an epoch that is not the first, which judges the start and may measure its step.

    Positions of frames held back that follow the volume, and flats that an illumination has to explain, are not
    counted. Recomputing counts as undoing wave by wave, also where strong absorption will forbid it.

    Args:
        plan: of the reconstruction.
        geometry: of the scan.
    """
    model, groups = plan.forward_model(geometry), plan.ranks // plan.slabs
    rank_of_view, between = plan.ranks_of_views(geometry), model.between_pixels
    heights = [last - first for first, last in plan.windows(model.window[0])]
    blurred = plan.point_spread_pixels > 0 or bool(np.any(geometry.source_blur_m))
    parts = 2 if plan.fit.absorption else 1
    transforms, awaited = np.zeros((groups, plan.slabs)), np.zeros(groups)
    turns, batches = np.zeros(groups, int), np.zeros(groups)
    turned: list[list[float]] = [[] for _ in range(groups)]
    fitted, held = batches_of(plan, geometry)
    for shares, is_fitted in ((fitted, True), (held, False)):
        for number, batch in ((number, batch) for number, share in enumerate(shares) for batch in share):
            for angle in np.unique(geometry.angle_rad[batch]):
                seen = batch[geometry.angle_rad[batch] == angle]
                turns[number % groups] += parts * (2 if is_fitted else 1)
                batches[number % groups] += 1 if is_fitted else _JUDGED
                turned[number % groups].append(float(angle))
                found = np.zeros(plan.slabs)
                for slab in range(plan.slabs):
                    own = seen if rank_of_view is None else seen[rank_of_view[seen] == slab]
                    part = (heights[slab], model.window[1])
                    of_views = transforms_of(
                        plan, len(own), part, bool(between[own].any()), model.far_field, blurred, is_fitted
                    )
                    found[slab] = of_views * part[0] / model.window[0]
                transforms[number % groups] += found
                awaited[number % groups] += found.max()
    steps = steps_of(plan, fitted)
    matrices = 0
    if plan.interpolation != "fourier":
        # Angles come round in an order in which none of more is kept until its turn.
        kept = kept_turns(plan.grid.shape[0] * plan.grid.shape[2], plan.interpolation)
        matrices = max(len(angles) if len(set(angles)) > kept else 0 for angles in turned)
    return Work(
        pairs=float(transforms.sum()) / 2,
        most_pairs=float(transforms.max()) / 2,
        awaited_pairs=float(awaited.max()) / 2,
        most_rotations=int(turns.max()),
        most_matrices=matrices,
        most_batches=float(batches.max()),
        steps=steps,
    )


def transforms_of(
    plan: Plan, views: int, window: tuple[int, int], between: bool, far_field: bool, blurred: bool, fitted: bool
) -> float:
    """Return the transforms of a rank's part of a window, there and, of fitted views, back, for views of one angle."""
    if views == 0:
        return 0
    modes, waves, variations = plan.probe_modes, plan.probe_modes * views, plan.fit.probe_variations
    moves = bool(_MOVING & set(plan.fit.refinement.quantities))
    entering = waves if between or moves or variations else modes
    inside = _inside(plan, window) * waves
    onto = (1 if far_field else 2) * waves + (2 * views if blurred else 0)
    there = modes + variations + entering + inside + onto
    if not fitted:
        return there
    probe = modes + variations if plan.fit.probe_step > 0 else 0
    back = onto + inside + (entering if probe or moves or variations else 0) + probe
    # From checkpoints, in tiles, or undone one by one: each wave behind a step is computed once more.
    again = 0 if plan.gradient == "stored" else inside
    return there + back + again


def _inside(plan: Plan, window: tuple[int, int]) -> float:
    """Return the transforms of a window that a wave takes on its way through the object."""
    if plan.propagation.startswith("finite-difference"):
        return 0
    if plan.propagation in BETWEEN_MID_PLANES:
        # The half steps outside go with the ways to entrance and detector.
        return 2 * (plan.slices - 1)
    whole = 2 * (plan.slices + 1)
    sides = [_tiled(*axis, plan.halo) for axis in zip(window, plan.tiles, strict=True)]
    return whole * math.prod(sides) / math.prod(window)


def _tiled(size: int, tiles: int, halo: int) -> int:
    """Return the pixels that tiles along an axis have with their halos."""
    ends = [size * edge // tiles for edge in range(tiles + 1)]
    return sum(min(int(next_fast_len(b - a + 2 * halo) or size), size) for a, b in itertools.pairwise(ends))
