"""Data that ranks with slabs of a volume exchange per epoch, counted before anything is computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.parallel import Mesh, Rows, Slab
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.solvers import assign_lanes, make_batches, share_held_back, split_views

_FLOAT = 4
_Batches = list[NDArray[np.intp]]


@dataclass(frozen=True)
class Exchange:
    """Bytes that all ranks together send to ranks of their angle group per epoch.

    Attributes:
        rows: rotated rows and their gradients: rows of a batch's windows outside of the slab, once for all its views.
        priors: rows next to the slabs, for the regularisers.
        strips: alternative to ``rows``, if every view gathered the rows of its window over the full width and returned
            their gradients, as in Du et al., Opt. Express 29, 10000 (2021).
    """

    rows: int
    priors: int
    strips: int


def exchange_of(plan: Plan, geometry: ScanGeometry) -> Exchange:
    """Return the exchange of the first epoch of a plan; other epochs differ by the order of views.

    Args:
        plan: plan of the reconstruction.
        geometry: geometry of the scan.
    """
    model = plan.forward_model(geometry)
    rank_of_view, first = plan.ranks_of_views(geometry), model.first_rows
    windows = plan.windows(model.window[0])
    parts, (depth, height, width) = 2 if plan.fit.absorption else 1, plan.grid.shape
    fitted, held = split_views(geometry.views, plan.held_back_every)
    batches = batches_of(plan, geometry)
    outside = 0
    for shares, directions in zip(batches, (2, 1), strict=True):
        for batch in (batch for share in shares for batch in share):
            for angle in np.unique(geometry.angle_rad[batch]):
                views = batch[geometry.angle_rad[batch] == angle]
                outside += directions * rows_from_other_slabs(plan, rank_of_view, views, first[views], windows)
    steps = steps_of(plan, batches[0])
    borders = 2 * (plan.slabs - 1) * (plan.ranks // plan.slabs) if plan.fit.priors.weighted else 0
    row = parts * width * _FLOAT
    elsewhere = (2 * len(fitted) + len(held)) * min(model.window[0], height) * (plan.slabs - 1) / plan.slabs
    return Exchange(outside * plan.slices * row, steps * borders * depth * row, int(elsewhere * plan.slices * row))


def batches_of(plan: Plan, geometry: ScanGeometry) -> tuple[list[_Batches], list[_Batches]]:
    """Return the batches of the first epoch: fitted views of each lane, and validation views of each group.

    The ranks of group n compute the lanes n, n + groups, …
    """
    angle_rad, heights, size = geometry.angle_rad, geometry.position_m[:, 0], plan.fit.batch_views

    def batched(part: NDArray[np.intp], shuffle: np.random.Generator | None) -> _Batches:
        return [part[batch] for batch in make_batches(angle_rad[part], heights[part], size, shuffle)]

    fitted, held = split_views(geometry.views, plan.held_back_every)
    lane_of = assign_lanes(fitted, plan.lanes, angle_rad if plan.whole_angles else None)
    lanes = [
        batched(fitted[lane_of == lane], np.random.default_rng([plan.fit.seed, lane])) for lane in range(plan.lanes)
    ]
    shares = share_held_back(held, angle_rad, plan.ranks // plan.slabs)
    return lanes, [batched(share, None) for share in shares]


def steps_of(plan: Plan, fitted: Sequence[_Batches]) -> int:
    """Return the number of steps per epoch for these batches of each lane."""
    return math.ceil(max(map(len, fitted), default=0) / plan.fit.batches_per_lane)


def rows_from_other_slabs(
    plan: Plan,
    rank_of_view: NDArray[np.intp] | None,
    views: NDArray[np.intp],
    first: NDArray[np.intp],
    windows: Sequence[Rows],
) -> int:
    """Return the number of window rows, for views at one angle, that ranks receive from other slabs."""
    found = 0
    for number in range(plan.slabs):
        slab = Slab(Mesh(number, plan.slabs, torch.device("cpu"), plan.slabs), plan.grid.shape[1], rank_of_view)
        start, end = slab.rows_needed(views, first, windows)[number]
        inside = max(0, min(end, slab.rows.stop) - max(start, slab.rows.start))
        found += end - start - inside
    return found
