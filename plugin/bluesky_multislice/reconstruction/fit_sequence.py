"""The sequence of fits of a reconstruction: short fits that select settings, coarse fits, and the planned fit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
    Prefetcher,
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
"""Ratio of epochs: planned fit to a short fit that tests a weight of total variation."""

_TEST_VIEWS, _TEST_HELD_BACK_EVERY = 60, 5
"""Views around the centre of the scan that test the number of probe modes; every fifth is a validation view."""

_TEST_EPOCHS = 5
"""Epochs of a fit that tests a number of probe modes."""

_TEST_BATCH = 4
"""Largest number of views per step of such a fit, so that its few views give enough steps."""

MIN_MODE_GAIN = 0.2
"""Fraction by which additional modes must reduce the misfit of validation frames.

For simulated patterns, the reduction was 0.23 to 0.33 for beams with two or three modes, and 0.10 to 0.18 for beams
with one mode. An exception is 0.22 for one strongly defocused mode that fills patterns of 64², which is misjudged,
because detector pixels integrate.
"""


VolumeCallback = Callable[[Slab, Callable[[], torch.Tensor]], None]
"""Called with a rank's slab and a function that returns its rows of the present δ (z, y, x)."""


@dataclass(frozen=True, eq=False)
class FitObserver:
    """Callbacks of a fit, after every epoch."""

    report: Callable[[Epoch], None] = lambda epoch: None
    observe_volume: VolumeCallback = lambda slab, delta: None

    def after(self, history: Sequence[Epoch]) -> "FitObserver":
        """Return the callbacks of a later fit, which number its epochs after those of earlier fits."""
        return replace(self, report=lambda epoch: self.report(epoch.after(history)))


@dataclass(frozen=True, eq=False)
class FitData:
    """Data of a fit.

    Attributes:
        scan: the scan.
        fitted: views to fit.
        held_back: validation views.
        rank_of_view: slab whose rank computes each view; None: all do.
        differences: initial values of refined quantities, as in ``Solution.differences``; others start at the scan's.
    """

    scan: Scan
    fitted: ViewSet
    held_back: ViewSet
    rank_of_view: NDArray[np.intp] | None
    differences: Mapping[str, torch.Tensor] = field(default_factory=dict)


def load_data(
    scan: Scan, plan: Plan, fitted: NDArray[np.intp], held: NDArray[np.intp], scale: float, mesh: Mesh
) -> FitData:
    """Read the frames that this rank computes, or prepare to read them on demand.

    Args:
        scan: the scan.
        plan: plan of the reconstruction.
        fitted: views to fit, of all ranks.
        held: validation views of all ranks.
        scale: intensity that is normalised to 1.
        mesh: the ranks.
    """
    rank_of_view, sets = plan.ranks_of_views(scan.geometry), []
    ahead = Prefetcher(plan.batches_ahead) if plan.frames_in == "disk" else None
    slab = Slab(mesh, plan.grid.shape[1], rank_of_view)
    validation = share_held_back(held, scan.geometry.angle_rad, mesh.angles)[mesh.angle]
    sectors = scan.geometry.angle_rad if plan.whole_angles else None
    for shared, lane in (share_views(fitted, plan.lanes, mesh, sectors), (validation, None)):
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
    """Return the plan with the weight of total variation whose short fit has the lowest validation misfit.

    Every short fit starts from ``volumes``, δ and β on the plan's grid; an empty list means an empty volume.
    """
    if not plan.smoothings:
        return plan
    epochs = max(1, plan.fit.epochs // _SHORTER)

    def with_weight(weight: float, plan: Plan = plan) -> Plan:
        priors = plan.fit.priors.with_weight("total_variation", weight)
        earlier = tuple(with_weight(weight, stage) for stage in plan.earlier)
        return replace(plan, fit=replace(plan.fit, priors=priors), earlier=earlier, smoothings=())

    def misfit(weight: float) -> float:
        short = replace(with_weight(weight), earlier=())
        short = replace(short, fit=replace(short.fit, epochs=epochs, polish=0))
        name = f"total variation {weight:g}"
        found = run_fits(data, short, probe, list(volumes), mesh, FitObserver(), journal, name)
        return min(epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss for epoch in found.history)

    return with_weight(min(plan.smoothings, key=misfit))


def with_tested_probe_modes(
    scan: Scan,
    plan: Plan,
    fitted: NDArray[np.intp],
    probe: torch.Tensor,
    scale: float,
    mesh: Mesh,
    journal: Journal | None,
) -> Plan:
    """Return the plan with one probe mode, or with all planned modes if these reduce the validation misfit clearly.

    Two short fits compare these choices on the views nearest the centre of the scan, of which a fifth validate.

    Args:
        scan: the scan.
        plan: plan with the largest number of modes.
        fitted: views to fit, of all ranks.
        probe: initial probe, complex (mode, y, x).
        scale: intensity that is normalised to 1.
        mesh: the ranks.
        journal: keeps the state of the short fits.
    """
    if not plan.modes_by_validation:
        return plan
    position_m = scan.geometry.position_m[fitted]
    distance_m = np.linalg.norm(position_m - np.median(position_m, axis=0), axis=1)
    tested = np.sort(fitted[np.argsort(distance_m, kind="stable")[:_TEST_VIEWS]])
    test_fitted, test_held = (tested[part] for part in split_views(len(tested), _TEST_HELD_BACK_EVERY))
    data = load_data(scan, plan, test_fitted, test_held, scale, mesh)
    batch = min(plan.fit.batch_views, -(-_TEST_BATCH // plan.lanes))
    short = replace(plan.fit, epochs=_TEST_EPOCHS, polish=0, batch_views=batch)
    short = replace(plan, fit=short, earlier=(), smoothings=())

    def misfit(modes: int) -> float:
        tested_plan = replace(short, probe_modes=modes)
        name = f"{modes} probe modes"
        found = run_fits(data, tested_plan, probe[:modes], [], mesh, FitObserver(), journal, name)
        return min(epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss for epoch in found.history)

    most = plan.probe_modes
    with_all, with_one = misfit(most), misfit(1)
    gain = 1 - with_all / with_one if with_one > 0 else 0.0
    chosen = most if gain > MIN_MODE_GAIN else 1
    note = (
        f"probe modes: {chosen}; in short fits, {most} modes change the misfit of validation frames by {-gain:+.0%} "
        f"relative to one mode; all are used if it falls by more than {MIN_MODE_GAIN:.0%}; set probe_modes to override"
    )
    return with_probe_modes(plan, chosen, note)


def run_fits(
    data: FitData,
    plan: Plan,
    first_probe: torch.Tensor,
    volumes: list[torch.Tensor],
    mesh: Mesh,
    observer: FitObserver,
    journal: Journal | None,
    name: str,
) -> Solution:
    """Run the plan's earlier fits and then the planned fit, each from the result of the one before.

    Args:
        data: the data.
        plan: plan of the reconstruction.
        first_probe: initial probe, complex (mode, y, x), on the pixels of the frames.
        volumes: initial δ and β (z, y, x) on the plan's grid, the stored rows; empty for an empty volume. The first fit
            clears the list, so that no reference keeps their memory.
        mesh: the ranks.
        observer: callbacks after every epoch.
        journal: keeps the state of the fits.
        name: name of the fits in the journal.
    """
    before, found_probe, history = plan, None, ()

    def fit_next(number: int, stage: Plan) -> Solution:
        """Run the next fit from the result of the one before, and number its epochs after those of earlier fits."""
        probe = _coarser_probe(first_probe, stage.coarseness)
        if found_probe is not None and stage.fit.probe_step > 0:
            finer = before.coarseness // stage.coarseness
            probe = torch.from_numpy(upsample(found_probe.cpu().numpy(), finer)) * finer
        volumes[:] = [_resampled(part, before.grid, stage.grid, mesh) for part in volumes]
        kept = journal.fit(f"{name}, fit {number}") if journal else None
        solution = _fit_stage(data, stage, probe, volumes, mesh, observer.after(history), kept)
        return replace(
            solution,
            best_epoch=len(history) + solution.best_epoch,
            history=(*history, *(epoch.after(history) for epoch in solution.history)),
        )

    for number, stage in enumerate(plan.earlier):
        volumes[:], found_probe, history = _unpack(fit_next(number, stage))
        before = stage
    return fit_next(len(plan.earlier), plan)


def _unpack(solution: Solution) -> tuple[list[torch.Tensor], torch.Tensor, tuple[Epoch, ...]]:
    """Return δ and β, the probe and the history, so that the solution itself is freed before the next fit."""
    return [solution.delta, solution.beta], solution.probe, solution.history


def _resampled(volume: torch.Tensor, grid: VolumeGrid, onto: VolumeGrid, mesh: Mesh) -> torch.Tensor:
    """Return this rank's rows of a volume resampled onto another grid."""
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
    observer: FitObserver,
    journal: FitJournal | None,
) -> Solution:
    """Fit the frames at the stage's coarseness from the initial probe, δ and β; clears the list ``volumes``."""
    slab, geometry = Slab(mesh, stage.grid.shape[1], data.rank_of_view), data.scan.geometry
    # Each fit has its own model, because a fit may move the model's windows.
    model = stage.forward_model(geometry, slab).to(mesh.device)
    support = cylinder_support(geometry, stage.grid, slab.rows) if stage.support == "cylinder" else None
    unknowns = Unknowns(model, probe, stage.fit, mesh.device, support)
    if data.differences:
        unknowns.start_refinement_from(data.differences)
    if volumes:
        unknowns.start_from(*volumes)
        volumes.clear()
    fitted, held = (
        views.coarser(stage.coarseness, far_field=model.far_field) for views in (data.fitted, data.held_back)
    )

    def report(epoch: Epoch) -> None:
        observer.report(epoch)
        observer.observe_volume(slab, lambda: unknowns.delta.detach())

    return fit(unknowns, fitted, held, mesh, report, journal)


def _coarser_probe(probe: torch.Tensor, factor: int) -> torch.Tensor:
    """Return the probe (mode, y, x) for frames ``factor`` times coarser, with the same mean intensity."""
    return torch.from_numpy(downsample(probe.cpu().numpy(), factor)) / factor
