"""The reconstruction: scan and plan in, volume out. Every rank calls it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import Scan, ScanGeometry, VolumeGrid, pattern_warnings
from bluesky_multislice.parallel import Mesh, Slab
from bluesky_multislice.planning import Plan, with_probe_light
from bluesky_multislice.reconstruction.fits_in_turn import (
    Look,
    Watch,
    fit_in_turn,
    load_data,
    with_best_smoothing,
    with_fewest_modes,
)
from bluesky_multislice.reconstruction.start import (
    Light,
    empty_beam,
    find_axis_pixels,
    first_probe,
    first_volume,
    light_of_frames,
    measure_light,
    move_axis,
)
from bluesky_multislice.solvers import (
    Epoch,
    Journal,
    ShellCorrelation,
    Solution,
    choose_kernels,
    halves,
    shell_correlation,
    split_views,
)


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
        JobError: the plan asks for fused kernels, which cannot serve here.
    """
    choose_kernels(plan.kernels, mesh)
    if plan.joint_illumination:
        scan = replace(scan, frames=scan.frames.undivided())
    fitted, held = split_views(scan.geometry.views, plan.held_back_every)
    own_fitted, own_held = (views[mesh.share(len(views))] for views in (fitted, held))
    light = measure_light(scan, own_fitted, own_held, plan.saturated, mesh)
    probe = first_probe(scan, plan, light.mean_frame, light.scale, mesh)
    axis_pixels = find_axis_pixels(scan, plan, probe, light.scale, mesh) if plan.find_axis else None
    if axis_pixels:
        scan = move_axis(scan, axis_pixels, plan.grid.voxel_size_m[2])
    fits = _Fits(scan, plan, probe, light, mesh, journal)
    solution, start, plan = fits.of(fitted, held, Watch(report, look), "all views")
    agreement = fits.agreement(plan, fitted, held, solution) if plan.shell_correlation else None
    wider = _wider(scan.geometry, solution)
    if wider != 1 and len(np.unique(scan.geometry.angle_rad)) > 1:
        # What was fitted is the phase that a voxel gives.
        solution = replace(solution, delta=solution.delta / wider, beta=solution.beta / wider)
    return Reconstruction(
        plan,
        scan.geometry,
        solution.with_probe_in(np.sqrt(light.scale)),
        warnings=(
            *pattern_warnings(scan.geometry, light.mean_frame, scan.probe),
            *light.warnings,
            *_axis_warnings(plan, axis_pixels),
        ),
        saturated_pixels=light.saturated_pixels,
        axis_pixels=axis_pixels,
        start=start,
        shell_correlation=agreement,
    )


@dataclass(frozen=True, eq=False)
class _Fits:
    """What every fit of a scan's views starts from: the scan about its axis, a probe and the frames' light."""

    scan: Scan
    plan: Plan
    probe: Tensor
    light: Light
    mesh: Mesh
    journal: Journal | None

    def of(
        self, fitted: NDArray[np.intp], held: NDArray[np.intp], watch: Watch, name: str
    ) -> tuple[Solution, str, Plan]:
        """Return the solution of some views, what it started from, and the plan with what was chosen on the way."""
        scan, plan, mesh, journal, scale = self.scan, self.plan, self.mesh, self.journal, self.light.scale
        if journal:
            journal.look()
        plan = with_fewest_modes(scan, plan, fitted, self.probe, scale, mesh, journal)
        probe = self.probe[: plan.probe_modes]
        volumes, start = first_volume(scan, plan, fitted, held, probe, scale, mesh)
        data = load_data(scan, plan, fitted, held, scale, mesh)
        if plan.joint_illumination:
            empty = empty_beam(scan, plan, scale, mesh.device)
            data = replace(data, fitted=replace(data.fitted, empty=empty))
        plan = with_best_smoothing(data, plan, probe, volumes, mesh, journal)
        lit = with_probe_light(plan, light_of_frames(probe, scan, plan, self.light.mean_frame / scale))
        return fit_in_turn(data, lit, probe, volumes, mesh, watch, journal, name), start, plan

    def agreement(
        self, plan: Plan, fitted: NDArray[np.intp], held: NDArray[np.intp], solution: Solution
    ) -> ShellCorrelation:
        """Return how far two halves of the views agree, each fitted as the whole was."""
        geometry, slab = self.scan.geometry, Slab(self.mesh, plan.grid.shape[1])
        pairs = zip(halves(geometry, fitted), halves(geometry, held), ("first half", "second half"), strict=True)
        alike = replace(self, plan=plan)
        deltas = [slab.join(alike.of(some, judging, Watch(), name)[0].delta) for some, judging, name in pairs]
        voxel_size_m = _refined_grid(plan.grid, geometry, solution).voxel_size_m
        axes = voxel_size_m if len(np.unique(geometry.angle_rad)) > 1 else voxel_size_m[1:]
        return shell_correlation(deltas[0], deltas[1], axes)


def _axis_warnings(plan: Plan, axis_pixels: float | None) -> tuple[str, ...]:
    """Return what is odd about where the rotation axis was found."""
    if plan.find_axis and axis_pixels is None:
        return ("the holograms do not tell where the rotation axis is: it stays where the scan has it",)
    if axis_pixels is not None and abs(axis_pixels) > 1:
        return (f"the rotation axis was found {axis_pixels:+.2f} pixels in x from where the scan has it",)
    return ()
