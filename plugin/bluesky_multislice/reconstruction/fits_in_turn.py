"""The fits of a reconstruction in turn: short ones that choose a weight, cheaper ones, and the planned one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.measurement import Scan, VolumeGrid
from bluesky_multislice.models import downsample, resample, upsample
from bluesky_multislice.parallel import Mesh, Slab
from bluesky_multislice.planning import Plan, with_probe_modes
from bluesky_multislice.solvers import (
    Epoch,
    FitJournal,
    Journal,
    ReadAhead,
    Solution,
    Unknowns,
    ViewSet,
    cylinder_support,
    fit,
    load_views,
    share_held_back,
    share_views,
    split_views,
)

_SHORTER = 3
"""Epochs of a fit over those of one that tries a weight."""

_TRIED_VIEWS, _JUDGED_OF_TRIED = 60, 5
"""Views around the scan's middle that numbers of probe modes are tried on, of which every fifth judges."""

_TRIED_EPOCHS = 5
"""Epochs of a fit that tries a number of probe modes."""

_TRIED_BATCH = 4
"""Views that move such a fit at once, at most: so few views have to move it often enough."""

WORTH_MORE_MODES = 0.2
"""Part of the misfit of validation frames that further modes have to take away.

Of simulated patterns they took 0.23 to 0.33 away where the beam had two or three modes, and 0.10 to 0.18 where it had
one (0.22 with patterns of 64² that a strongly defocused probe fills: pixels of a detector integrate).
"""


Look = Callable[[Slab, Callable[[], torch.Tensor]], None]
"""Gets the slab of a rank, and what gives its rows of δ (z, y, x) as they are."""


@dataclass(frozen=True, eq=False)
class Watch:
    """Who follows a fit: its epochs, and its volume."""

    report: Callable[[Epoch], None] = lambda epoch: None
    look: Look = lambda slab, delta: None

    def after(self, history: Sequence[Epoch]) -> "Watch":
        """Return who follows a fit that comes after others, and counts its epochs from their first."""
        return replace(self, report=lambda epoch: self.report(epoch.after(history)))


@dataclass(frozen=True, eq=False)
class FitData:
    """What is fitted: the scan, its views to fit and to judge by, and which slab's rank computes each; None: all do."""

    scan: Scan
    fitted: ViewSet
    held_back: ViewSet
    rank_of_view: NDArray[np.intp] | None


def load_data(
    scan: Scan, plan: Plan, fitted: NDArray[np.intp], held: NDArray[np.intp], scale: float, mesh: Mesh
) -> FitData:
    """Read the frames that this rank computes, or make them ready to be read.

    Args:
        scan: what was measured.
        plan: of the reconstruction.
        fitted: views of all ranks to fit.
        held: views of all ranks to judge by.
        scale: intensity that becomes one.
        mesh: the ranks.
    """
    rank_of_view, sets = plan.ranks_of_views(scan.geometry), []
    ahead = ReadAhead(plan.batches_ahead) if plan.frames_in == "disk" else None
    slab = Slab(mesh, plan.grid.shape[1], rank_of_view)
    judged = share_held_back(held, scan.geometry.angle_rad, mesh.angles)[mesh.angle]
    sectors = scan.geometry.angle_rad if plan.whole_angles else None
    for shared, lane in (share_views(fitted, plan.lanes, mesh, sectors), (judged, None)):
        sets.append(
            load_views(
                scan,
                shared,
                scale=scale,
                device=mesh.device,
                saturated=plan.saturated,
                ahead=ahead,
                lane=lane,
                own=slab.computes(shared),
                rows=plan.frame_rows(mesh),
            )
        )
    return FitData(scan, sets[0], sets[1], rank_of_view)


def with_best_smoothing(
    data: FitData,
    plan: Plan,
    probe: torch.Tensor,
    volumes: Sequence[torch.Tensor],
    mesh: Mesh,
    journal: Journal | None,
) -> Plan:
    """Return the plan with the weight of total variation whose short fit explains frames held back best.

    Every one starts from ``volumes``, δ and β on the plan's grid; none: from an empty volume.
    """
    if not plan.smoothings:
        return plan
    epochs = max(1, plan.fit.epochs // _SHORTER)

    def with_weight(weight: float, plan: Plan = plan) -> Plan:
        priors = replace(plan.fit.priors, total_variation=weight)
        earlier = tuple(with_weight(weight, stage) for stage in plan.earlier)
        return replace(plan, fit=replace(plan.fit, priors=priors), earlier=earlier, smoothings=())

    def misfit(weight: float) -> float:
        short = replace(with_weight(weight), earlier=())
        short = replace(short, fit=replace(short.fit, epochs=epochs, polish=0))
        name = f"total variation {weight:g}"
        tried = fit_in_turn(data, short, probe, list(volumes), mesh, Watch(), journal, name)
        return min(epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss for epoch in tried.history)

    return with_weight(min(plan.smoothings, key=misfit))


def with_fewest_modes(
    scan: Scan,
    plan: Plan,
    fitted: NDArray[np.intp],
    probe: torch.Tensor,
    scale: float,
    mesh: Mesh,
    journal: Journal | None,
) -> Plan:
    """Return the plan with one probe mode, unless all of its modes explain validation frames clearly better.

    Short fits to some views in the scan's middle tell, each with all slices: a fifth of these views is held back.

    Args:
        scan: what was measured.
        plan: with the most modes.
        fitted: views of all ranks to fit.
        probe: complex (mode, y, x) to start from.
        scale: intensity that becomes one.
        mesh: the ranks.
        journal: keeps the short fits' state.
    """
    if not plan.modes_by_validation:
        return plan
    position_m = scan.geometry.position_m[fitted]
    away = np.linalg.norm(position_m - np.median(position_m, axis=0), axis=1)
    tried = np.sort(fitted[np.argsort(away, kind="stable")[:_TRIED_VIEWS]])
    moving, judging = (tried[part] for part in split_views(len(tried), _JUDGED_OF_TRIED))
    data = load_data(scan, plan, moving, judging, scale, mesh)
    batch = min(plan.fit.batch_views, -(-_TRIED_BATCH // plan.lanes))
    short = replace(plan.fit, epochs=_TRIED_EPOCHS, polish=0, batch_views=batch)
    short = replace(plan, fit=short, earlier=(), smoothings=())

    def misfit(modes: int) -> float:
        few = replace(short, probe_modes=modes)
        name = f"{modes} probe modes"
        found = fit_in_turn(data, few, probe[:modes], [], mesh, Watch(), journal, name)
        return min(epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss for epoch in found.history)

    most = plan.probe_modes
    gain = 1 - misfit(most) / misfit(1)
    chosen = most if gain > WORTH_MORE_MODES else 1
    note = (
        f"probe modes: {chosen}; in short fits {most} modes change the misfit of validation frames by {-gain:+.0%} "
        f"against one, and are taken where it falls by {WORTH_MORE_MODES:.0%} or more; probe_modes overrules"
    )
    return with_probe_modes(plan, chosen, note)


def fit_in_turn(
    data: FitData,
    plan: Plan,
    first_probe: torch.Tensor,
    volumes: list[torch.Tensor],
    mesh: Mesh,
    watch: Watch,
    journal: Journal | None,
    name: str,
) -> Solution:
    """Fit as the plan's earlier fits say, and then as it says itself, each from what the one before has found.

    Args:
        data: what is fitted.
        plan: of the reconstruction.
        first_probe: complex (mode, y, x) on the pixels of the frames.
        volumes: δ and β (z, y, x) on the plan's grid to start from, the rows held; none for an empty volume. A fit
            takes them out of the list as it begins, so that nothing holds them from then on.
        mesh: the ranks.
        watch: who follows the fits.
        journal: keeps their state.
        name: of the fits in the journal.
    """
    before, found_probe, history = plan, None, ()

    def fit_next(number: int, stage: Plan) -> Solution:
        """Return what a fit finds from what the one before it has left, its epochs counted from the first fit's."""
        probe = _coarser_probe(first_probe, stage.coarseness)
        if found_probe is not None and stage.fit.probe_step > 0:
            finer = before.coarseness // stage.coarseness
            probe = torch.from_numpy(upsample(found_probe.cpu().numpy(), finer)) * finer
        volumes[:] = [_onto(part, before.grid, stage.grid, mesh) for part in volumes]
        kept = journal.fit(f"{name}, fit {number}") if journal else None
        solution = _fit_stage(data, stage, probe, volumes, mesh, watch.after(history), kept)
        return replace(
            solution,
            best_epoch=len(history) + solution.best_epoch,
            history=(*history, *(epoch.after(history) for epoch in solution.history)),
        )

    for number, stage in enumerate(plan.earlier):
        volumes[:], found_probe, history = _taken_apart(fit_next(number, stage))
        before = stage
    return fit_next(len(plan.earlier), plan)


def _taken_apart(solution: Solution) -> tuple[list[torch.Tensor], torch.Tensor, tuple[Epoch, ...]]:
    """Return δ and β, the probe and the history, so that no name keeps the solution while the next fit runs."""
    return [solution.delta, solution.beta], solution.probe, solution.history


def _onto(volume: torch.Tensor, grid: VolumeGrid, onto: VolumeGrid, mesh: Mesh) -> torch.Tensor:
    """Return the rows that this rank holds of a volume on another grid."""
    if grid == onto:
        return volume
    whole = Slab(mesh, grid.shape[1]).join(volume)
    return Slab(mesh, onto.shape[1]).part_of(resample(whole, grid, onto))


def _fit_stage(
    data: FitData,
    stage: Plan,
    probe: torch.Tensor,
    volumes: list[torch.Tensor],
    mesh: Mesh,
    watch: Watch,
    journal: FitJournal | None,
) -> Solution:
    """Fit the frames as coarse as a plan says, from a probe and δ and β, which are taken out of their list."""
    slab, geometry = Slab(mesh, stage.grid.shape[1], data.rank_of_view), data.scan.geometry
    # A model of its own each: a fit may move its windows.
    model = stage.forward_model(geometry, slab).to(mesh.device)
    support = cylinder_support(geometry, stage.grid, slab.rows) if stage.support == "cylinder" else None
    unknowns = Unknowns(model, probe, stage.fit, mesh.device, support)
    if volumes:
        unknowns.start_from(*volumes)
        volumes.clear()
    fitted, held = (
        views.coarser(stage.coarseness, far_field=model.far_field) for views in (data.fitted, data.held_back)
    )

    def report(epoch: Epoch) -> None:
        watch.report(epoch)
        watch.look(slab, lambda: unknowns.delta.detach())

    return fit(unknowns, fitted, held, stage.fit, mesh, report, journal)


def _coarser_probe(probe: torch.Tensor, factor: int) -> torch.Tensor:
    """Return the probe (mode, y, x) that belongs to frames ``factor`` times coarser, of the same mean intensity."""
    return torch.from_numpy(downsample(probe.cpu().numpy(), factor)) / factor
