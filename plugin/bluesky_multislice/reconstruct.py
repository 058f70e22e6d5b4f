"""The reconstruction: scan and plan in, volume out. Every rank calls it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.first_probe import first_probe, light_of_frames
from bluesky_multislice.first_volume import FirstVolume, first_volume
from bluesky_multislice.frames import Saturated
from bluesky_multislice.geometry import ScanGeometry, VolumeGrid
from bluesky_multislice.joint_illumination import empty_beam
from bluesky_multislice.models import downsample, resample, upsample
from bluesky_multislice.parallel import Mesh, Slab
from bluesky_multislice.planning import Plan, with_probe_light
from bluesky_multislice.plausibility import pattern_warnings
from bluesky_multislice.rotation_axis import find_axis_pixels, move_axis
from bluesky_multislice.scan import Scan
from bluesky_multislice.solvers import (
    Epoch,
    FitJournal,
    Journal,
    ShellCorrelation,
    Solution,
    Unknowns,
    ViewSet,
    cylinder_support,
    fit,
    halves,
    load_views,
    share_views,
    shell_correlation,
    split_views,
)

Look = Callable[[Slab, Callable[[], torch.Tensor]], None]
"""Gets the slab of a rank, and what gives its rows of δ (z, y, x) as they are."""

_SHORTER = 3
"""Epochs of a fit over those of one that tries a weight."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A volume and how it came about.

    Attributes:
        plan: what was done.
        geometry: the scan's geometry, about the axis that was found.
        solution: the unknowns and the course of the fit; δ and β of the rows that this rank holds.
        warnings: what a person should know about the frames.
        saturated_pixels: how many pixels of all frames to fit were left out because they are saturated.
        axis_pixels: how far the rotation axis was found from where the scan has it, along x, pixels of the volume; None
            where it was not looked for, or not found.
        start: what the volume started from.
        shell_correlation: of δ from two halves of the views; None where the plan does not ask for it.
    """

    plan: Plan
    geometry: ScanGeometry
    solution: Solution
    warnings: tuple[str, ...] = ()
    saturated_pixels: int = 0
    axis_pixels: float | None = None
    start: str = "empty"
    shell_correlation: ShellCorrelation | None = None

    @property
    def position_m(self) -> NDArray[np.float64]:
        """(view, 2) positions (y, x) with what was refined of them."""
        found, position_m = self.solution.differences, self.geometry.position_m
        if "positions" in found:
            position_m = position_m + found["positions"].cpu().numpy()
        if "axis_shift" in found:
            angle_of = np.unique(self.geometry.angle_rad, return_inverse=True)[1]
            position_m = position_m + found["axis_shift"].cpu().numpy()[angle_of]
        return position_m

    @property
    def grid(self) -> VolumeGrid:
        """The volume's grid, as deep as it was refined to be, and as wide as the distance of patterns says."""
        return _refined_grid(self.plan.grid, self.geometry, self.solution)


def _refined_grid(grid: VolumeGrid, geometry: ScanGeometry, solution: Solution) -> VolumeGrid:
    (depth, y, x), wider = grid.voxel_size_m, _wider(geometry, solution)
    more = solution.differences.get("slice_spacing")
    if more is not None:
        depth *= 1 + float(more.sum()) / grid.thickness_m
    if len(np.unique(geometry.angle_rad)) > 1:
        depth *= wider
    return replace(grid, voxel_size_m=(depth, wider * y, wider * x))


def _wider(geometry: ScanGeometry, solution: Solution) -> float:
    """Return the object's pixel over the scan's, where the distance of far-field patterns was refined."""
    further = solution.differences.get("distance")
    if further is None or geometry.detector.regime == "near_field":
        return 1.0
    return 1 + float(further.mean()) / float(geometry.distance_m.mean())


def reconstruct(
    scan: Scan,
    plan: Plan,
    mesh: Mesh,
    report: Callable[[Epoch], None] = lambda epoch: None,
    journal: Journal | None = None,
    look: Look = lambda slab, delta: None,
) -> Reconstruction:
    """Reconstruct the volume of a scan.

    Args:
        scan: what was measured; each rank reads only its own frames.
        plan: from ``make_plan``.
        mesh: the ranks.
        report: called after every epoch, also those that an earlier run has done.
        journal: keeps the fits' state now and then, and may know that of an earlier run, which then goes on.
        look: called on every rank after every epoch, to see the volume as it is.

    Raises:
        FramesError: a frame cannot be used, or no frame has any light.
        Interrupted: the job was asked to stop.
    """
    if plan.joint_illumination:
        scan = replace(scan, frames=scan.frames.undivided())
    fitted, held = split_views(scan.geometry.views, plan.held_back_every)
    own_fitted, own_held = (views[mesh.share(len(views))] for views in (fitted, held))
    light = _measure_light(scan, own_fitted, own_held, plan.saturated, mesh)
    scale = light.scale
    probe = first_probe(scan, plan, light.mean_frame, scale, mesh)
    probe_light = light_of_frames(probe, scan, plan, light.mean_frame / scale)

    axis_pixels = find_axis_pixels(scan, plan, probe, scale, mesh) if plan.find_axis else None
    if axis_pixels:
        scan = move_axis(scan, axis_pixels, plan.grid.voxel_size_m[2])
    geometry = scan.geometry
    rank_of_view = plan.forward_model(geometry).ranks_of_views(mesh.slabs)

    def load(views: NDArray[np.intp]) -> ViewSet:
        shared, lane = share_views(views, plan.lanes, mesh)
        return load_views(
            scan,
            shared,
            scale=scale,
            device=mesh.device,
            saturated=plan.saturated,
            frames_in=plan.frames_in,
            lane=lane,
            own=rank_of_view[shared] == mesh.slab,
        )

    def fit_views(
        plan: Plan, fitted: NDArray[np.intp], held: NDArray[np.intp], watch: _Watch, name: str
    ) -> tuple[Solution, FirstVolume | None, Plan]:
        if journal:
            journal.look()
        start = first_volume(scan, plan, fitted, held, probe, scale, mesh)
        sets = [load(views) for views in (fitted, held)]
        if plan.joint_illumination:
            sets[0] = replace(sets[0], empty=empty_beam(scan, plan, scale, mesh.device))
        data = _Data(scan, sets[0], sets[1], rank_of_view)
        plan = _with_best_smoothing(data, plan, probe, start, mesh, journal)
        lit = with_probe_light(plan, probe_light)
        return _fit_in_turn(data, lit, probe, start, mesh, watch, journal, name), start, plan

    solution, start, plan = fit_views(plan, fitted, held, _Watch(report, look), "all views")
    agreement = None
    if plan.shell_correlation:
        pairs = zip(halves(geometry, fitted), halves(geometry, held), ("first half", "second half"), strict=True)
        slab = Slab(mesh, plan.grid.shape[1])
        found = (fit_views(plan, some, judging, _Watch(), name)[0] for some, judging, name in pairs)
        deltas = [slab.join(half.delta) for half in found]
        voxel_size_m = _refined_grid(plan.grid, geometry, solution).voxel_size_m
        axes = voxel_size_m if len(np.unique(geometry.angle_rad)) > 1 else voxel_size_m[1:]
        agreement = shell_correlation(deltas[0], deltas[1], axes)
    wider = _wider(geometry, solution)
    if wider != 1 and len(np.unique(geometry.angle_rad)) > 1:
        # What was fitted is the phase that a voxel gives.
        solution = replace(solution, delta=solution.delta / wider, beta=solution.beta / wider)
    return Reconstruction(
        plan,
        geometry,
        solution.with_probe_in(np.sqrt(scale)),
        warnings=(
            *pattern_warnings(geometry, light.mean_frame, scan.probe),
            *light.warnings,
            *_axis_warnings(plan, axis_pixels),
        ),
        saturated_pixels=light.saturated_pixels,
        axis_pixels=axis_pixels,
        start=start.origin if start else "empty",
        shell_correlation=agreement,
    )


@dataclass(frozen=True, eq=False)
class _Watch:
    """Who follows a fit: its epochs, and its volume."""

    report: Callable[[Epoch], None] = lambda epoch: None
    look: Look = lambda slab, delta: None


@dataclass(frozen=True, eq=False)
class _Data:
    """What is fitted: the scan, its views to fit and to judge by, and which slab's rank computes each of the scan's."""

    scan: Scan
    fitted: ViewSet
    held_back: ViewSet
    rank_of_view: NDArray[np.intp]


def _with_best_smoothing(
    data: _Data,
    plan: Plan,
    probe: torch.Tensor,
    start: FirstVolume | None,
    mesh: Mesh,
    journal: Journal | None,
) -> Plan:
    """Return the plan with the weight of total variation whose short fit explains frames held back best."""
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
        tried = _fit_in_turn(data, short, probe, start, mesh, _Watch(), journal, name)
        return min(epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss for epoch in tried.history)

    return with_weight(min(plan.smoothings, key=misfit))


def _fit_in_turn(
    data: _Data,
    plan: Plan,
    first_probe: torch.Tensor,
    start: FirstVolume | None,
    mesh: Mesh,
    watch: _Watch,
    journal: Journal | None,
    name: str,
) -> Solution:
    """Fit as the plan's earlier fits say, and then as it says itself, each from what the one before has found."""
    first, *others = (*plan.earlier, plan)
    journals = [journal.fit(f"{name}, fit {number}") if journal else None for number in range(1 + len(others))]
    volumes = None
    if start is not None:
        volumes = [_onto(part, plan.grid, first.grid, mesh) for part in (start.delta, start.beta)]
    probe = _coarser_probe(first_probe, first.coarseness)
    solution = _fit_stage(data, first, probe, volumes, mesh, watch, journals[0])
    for (before, stage), kept in zip(pairwise((first, *others)), journals[1:], strict=True):
        probe = _coarser_probe(first_probe, stage.coarseness)
        if stage.fit.probe_step > 0:
            finer = before.coarseness // stage.coarseness
            probe = torch.from_numpy(upsample(solution.probe.cpu().numpy(), finer)) * finer
        volumes = [_onto(part, before.grid, stage.grid, mesh) for part in (solution.delta, solution.beta)]

        def report_on(epoch: Epoch, before: Solution = solution) -> None:
            watch.report(before.continued(epoch))

        found = _fit_stage(data, stage, probe, volumes, mesh, replace(watch, report=report_on), kept)
        solution = replace(
            found,
            best_epoch=len(solution.history) + found.best_epoch,
            history=(*solution.history, *(solution.continued(epoch) for epoch in found.history)),
        )
    return solution


def _onto(volume: torch.Tensor, grid: VolumeGrid, onto: VolumeGrid, mesh: Mesh) -> torch.Tensor:
    """Return the rows that this rank holds of a volume on another grid."""
    if grid == onto:
        return volume
    whole = Slab(mesh, grid.shape[1]).join(volume)
    return Slab(mesh, onto.shape[1]).part_of(resample(whole, grid, onto))


def _fit_stage(
    data: _Data,
    stage: Plan,
    probe: torch.Tensor,
    volumes: Sequence[torch.Tensor] | None,
    mesh: Mesh,
    watch: _Watch,
    journal: FitJournal | None,
) -> Solution:
    """Fit the frames as coarse as a plan says, from a probe and δ and β."""
    slab, geometry = Slab(mesh, stage.grid.shape[1], data.rank_of_view), data.scan.geometry
    # A model of its own each: a fit may move its windows.
    model = stage.forward_model(geometry, slab).to(mesh.device)
    support = cylinder_support(geometry, stage.grid, slab.rows) if stage.support == "cylinder" else None
    unknowns = Unknowns(model, probe, stage.fit, mesh.device, support)
    if volumes is not None:
        unknowns.start_from(*volumes)
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


def _axis_warnings(plan: Plan, axis_pixels: float | None) -> tuple[str, ...]:
    """Return what is odd about where the rotation axis was found."""
    if plan.find_axis and axis_pixels is None:
        return ("the holograms do not tell where the rotation axis is: it stays where the scan has it",)
    if axis_pixels is not None and abs(axis_pixels) > 1:
        return (f"the rotation axis was found {axis_pixels:+.2f} pixels in x from where the scan has it",)
    return ()


@dataclass(frozen=True, eq=False)
class _Light:
    """What the frames to fit show at a glance: mean (y, x), its mean over good pixels, and what is wrong with them."""

    mean_frame: NDArray[np.float32]
    scale: float
    saturated_pixels: int
    dark_views: int
    dark_judges: int

    @property
    def warnings(self) -> tuple[str, ...]:
        found = []
        if self.dark_views:
            found.append(f"{self.dark_views} of the frames to fit have no light: leave them out of the scan")
        if self.dark_judges:
            found.append(
                f"{self.dark_judges} of the frames held back, which judge the fit, have no light: leave them out "
                "of the scan"
            )
        if self.saturated_pixels:
            found.append(f"{self.saturated_pixels} saturated pixels of the frames to fit are left out")
        return tuple(found)


def _measure_light(
    scan: Scan, fitted: NDArray[np.intp], held: NDArray[np.intp], saturated: Saturated, mesh: Mesh
) -> _Light:
    """Look at the frames of all ranks, one after the other; the mean is of those to fit, less saturated pixels."""
    total, seen = (torch.zeros(scan.frames.shape, dtype=torch.float64, device=mesh.device) for _ in range(2))
    count = torch.zeros(3, dtype=torch.float64, device=mesh.device)
    for view in fitted:
        frame = torch.from_numpy(scan.frames.read(np.array([view]), saturated=saturated)[0]).to(mesh.device)
        lost = torch.isnan(frame)
        frame = frame.nan_to_num()
        total += frame
        seen += ~lost
        count[:2] += torch.stack([lost.sum(), (frame.sum() <= 0) & ~lost.any()])
    for view in held:
        count[2] += not scan.frames.read(np.array([view]), saturated=saturated).any()
    mesh.sum(total, seen, count)
    mean = (total / seen.clamp(min=1)).float().cpu().numpy()
    scale = float(mean[scan.frames.mask].mean())
    if scale <= 0:
        raise FramesError(
            "Frames must have light in them.",
            got="zero in every good pixel of every frame.",
            remedy="check the shutter, the mask and the dark frames.",
        )
    return _Light(mean, scale, int(count[0]), int(count[1]), int(count[2]))
