"""Reconstruction of a volume from a scan and a plan; collective calls of all ranks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import Scan, ScanGeometry, VolumeGrid, move_axis, pattern_warnings
from bluesky_multislice.parallel import Mesh, Slab
from bluesky_multislice.planning import Plan, with_probe_intensity, with_refined_shifts, without_former_volume
from bluesky_multislice.reconstruction.fit_sequence import (
    FitObserver,
    VolumeCallback,
    load_data,
    run_fits,
    with_best_smoothing,
    with_tested_probe_modes,
)
from bluesky_multislice.reconstruction.start import (
    Alignment,
    FrameStatistics,
    align_series,
    empty_beam,
    find_axis_pixels,
    first_probe,
    first_volume,
    former_differences,
    measure_frames,
    misfits_of_empty_sample,
    move_views,
    probe_intensity_from_frames,
    with_former_positions,
)
from bluesky_multislice.reconstruction.verdict import Evidence, Verdict, judge
from bluesky_multislice.solvers import (
    Epoch,
    FrameMisfits,
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
    """A reconstructed volume, with its plan and quality.

    Attributes:
        plan: the plan, with choices made by short fits.
        geometry: the scan's geometry, aligned and relative to the rotation axis that was found.
        solution: the solution of the fit; δ and β of this rank's rows.
        warnings: warnings about the frames.
        saturated_pixels: number of saturated pixels excluded from all fitted frames.
        alignment: shifts by which the series was aligned; None if they were not searched or lowered the misfit too
            little.
        axis_pixels: shift of the rotation axis along x from the scan's, in pixels of the volume, found here or, in a
            half acquisition, by the plan; None if it was not searched or not found.
        start: kind of initial guess.
        shell_correlation: Fourier shell correlation of δ from two halves of the views; None if not planned.
        scan_geometry: the scan's geometry as measured; None: ``geometry``.
        frame_intensity: mean intensity of the fitted frames per good pixel; None if unknown.
        empty_misfits: misfits of some validation frames (of fitted frames if none are held back) with an empty sample.
    """

    plan: Plan
    geometry: ScanGeometry
    solution: Solution
    warnings: tuple[str, ...] = ()
    saturated_pixels: int = 0
    alignment: Alignment | None = None
    axis_pixels: float | None = None
    start: str = "empty"
    shell_correlation: ShellCorrelation | None = None
    scan_geometry: ScanGeometry | None = None
    frame_intensity: float | None = None
    empty_misfits: FrameMisfits | None = None

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on the reconstruction, with reasons and advice."""
        held_back = np.zeros(self.geometry.views, bool)
        held_back[split_views(self.geometry.views, self.plan.held_back_every)[1]] = True
        return judge(Evidence(self.solution, self.geometry, held_back, self.empty_misfits))

    @property
    def frame_r_factors(self) -> NDArray[np.float64]:
        """(view,) R-factor of each frame; NaN for frames that were left out."""
        misfits = self.solution.frame_misfits
        return np.full(self.geometry.views, np.nan) if misfits is None else misfits.r_factors

    @property
    def position_m(self) -> NDArray[np.float64]:
        """(view, 2) positions (y, x) including refined shifts."""
        found, position_m = self.solution.differences, self.geometry.position_m
        if "positions" in found:
            position_m = position_m + found["positions"].cpu().numpy()
        if "axis_shift" in found:
            angle_of = np.unique(self.geometry.angle_rad, return_inverse=True)[1]
            position_m = position_m + found["axis_shift"].cpu().numpy()[angle_of]
        return position_m

    @property
    def grid(self) -> VolumeGrid:
        """Grid of the volume, with refined depth, and with the refined distance of far-field patterns."""
        return _refined_grid(self.plan.grid, self.geometry, self.solution)


def _refined_grid(grid: VolumeGrid, geometry: ScanGeometry, solution: Solution) -> VolumeGrid:
    (depth, y, x), scale = grid.voxel_size_m, _pixel_scale(geometry, solution)
    spacing = solution.differences.get("slice_spacing")
    if spacing is not None:
        depth *= 1 + float(spacing.sum()) / grid.thickness_m
    if len(np.unique(geometry.angle_rad)) > 1:
        depth *= scale
    return replace(grid, voxel_size_m=(depth, scale * y, scale * x))


def _pixel_scale(geometry: ScanGeometry, solution: Solution) -> float:
    """Return the ratio of refined to original object pixel, for a refined distance of far-field patterns."""
    difference = solution.differences.get("distance")
    if difference is None or geometry.detector.regime == "near_field":
        return 1.0
    return 1 + float(difference.mean()) / float(geometry.distance_m.mean())


def reconstruct(
    scan: Scan,
    plan: Plan,
    mesh: Mesh,
    report: Callable[[Epoch], None] = lambda epoch: None,
    journal: Journal | None = None,
    observe_volume: VolumeCallback = lambda slab, delta: None,
) -> Reconstruction:
    """Reconstruct the volume of a scan.

    Args:
        scan: the scan; each rank reads only its own frames.
        plan: from ``make_plan``.
        mesh: the ranks.
        report: called after every epoch, including the epochs of an earlier run.
        journal: writes checkpoints, and resumes from those of an earlier run.
        observe_volume: called on every rank after every epoch, with access to the present volume.

    Raises:
        FramesError: a frame cannot be used, or all frames are dark.
        Interrupted: a stop of the job was requested.
        JobError: the plan requires fused kernels, which are unavailable here.
    """
    choose_kernels(plan.kernels, mesh)
    measured, scan = scan.geometry, _prepared(scan, plan)
    fitted, held = split_views(scan.geometry.views, plan.held_back_every)
    statistics = measure_frames(scan, fitted, held, plan.saturated, mesh)
    fitted, held = statistics.fitted, statistics.held_back
    probe = first_probe(scan, plan, statistics, mesh)
    views = np.sort(np.concatenate([fitted, held]))
    scan, plan, alignment = _aligned(scan, plan, probe, statistics.scale, mesh, views)
    axis_pixels = plan.axis_pixels * plan.oversampling or None
    if plan.find_axis:
        axis_pixels = find_axis_pixels(scan, plan, probe, statistics.scale, mesh, views)
        scan = move_axis(scan, axis_pixels or 0.0, plan.grid.voxel_size_m[2])
    fits = _ScanFits(scan, plan, probe, statistics, mesh, journal)
    solution, start, plan = fits.fit(fitted, held, FitObserver(report, observe_volume), "all views")
    compared = held if len(held) else fitted
    empty = misfits_of_empty_sample(scan, plan, solution.probe, compared, statistics.scale, mesh)
    correlation = fits.half_data_correlation(plan, fitted, held, solution) if plan.shell_correlation else None
    scale = _pixel_scale(scan.geometry, solution)
    if scale != 1 and len(np.unique(scan.geometry.angle_rad)) > 1:
        # The fit determines the phase per voxel, so that larger voxels have smaller δ and β.
        solution = replace(solution, delta=solution.delta / scale, beta=solution.beta / scale)
    return Reconstruction(
        plan,
        scan.geometry,
        solution.with_probe_in(np.sqrt(statistics.scale)),
        warnings=(
            *pattern_warnings(scan.geometry, statistics.mean_frame, scan.probe),
            *statistics.warnings,
            *_alignment_warnings(alignment),
            *_axis_warnings(plan, axis_pixels),
        ),
        saturated_pixels=statistics.saturated_pixels,
        alignment=alignment,
        axis_pixels=axis_pixels,
        start=start,
        shell_correlation=correlation,
        scan_geometry=measured,
        frame_intensity=statistics.scale,
        empty_misfits=empty,
    )


@dataclass(frozen=True, eq=False)
class _ScanFits:
    """Fits of a scan's views, with their common inputs: scan, plan, initial probe and frame statistics."""

    scan: Scan
    plan: Plan
    probe: Tensor
    statistics: FrameStatistics
    mesh: Mesh
    journal: Journal | None

    def fit(
        self, fitted: NDArray[np.intp], held: NDArray[np.intp], observer: FitObserver, name: str
    ) -> tuple[Solution, str, Plan]:
        """Return the solution for these views, the kind of initial guess, and the plan as completed by short fits."""
        scan, plan, mesh, journal, scale = self.scan, self.plan, self.mesh, self.journal, self.statistics.scale
        if journal:
            journal.raise_if_stop_requested()
        plan = with_tested_probe_modes(scan, plan, fitted, self.probe, scale, mesh, journal)
        probe = self.probe[: plan.probe_modes]
        volumes, start = first_volume(scan, plan, fitted, held, probe, scale, mesh)
        data = load_data(scan, plan, fitted, held, scale, mesh)
        if scan.former is not None:
            data = replace(data, differences=former_differences(scan.former, scan, plan, scale))
        if plan.joint_illumination:
            empty = empty_beam(scan, plan, scale, mesh.device)
            data = replace(data, fitted=replace(data.fitted, empty=empty))
        plan = with_best_smoothing(data, plan, probe, volumes, mesh, journal)
        plan_with_probe = with_probe_intensity(
            plan, probe_intensity_from_frames(probe, scan, plan, self.statistics.mean_frame / scale)
        )
        return run_fits(data, plan_with_probe, probe, volumes, mesh, observer, journal, name), start, plan

    def half_data_correlation(
        self, plan: Plan, fitted: NDArray[np.intp], held: NDArray[np.intp], solution: Solution
    ) -> ShellCorrelation:
        """Return the shell correlation of two halves of the views, each fitted like all views."""
        geometry, slab = self.scan.geometry, Slab(self.mesh, plan.grid.shape[1])
        pairs = zip(halves(geometry, fitted), halves(geometry, held), ("first half", "second half"), strict=True)
        # Halves are independent only if neither starts from a volume of all views.
        fits = replace(self, plan=without_former_volume(plan))
        deltas = [slab.join(fits.fit(half, held_half, FitObserver(), name)[0].delta) for half, held_half, name in pairs]
        voxel_size_m = _refined_grid(plan.grid, geometry, solution).voxel_size_m
        axes = voxel_size_m if len(np.unique(geometry.angle_rad)) > 1 else voxel_size_m[1:]
        return shell_correlation(deltas[0], deltas[1], axes)


def _prepared(scan: Scan, plan: Plan) -> Scan:
    """Return the scan with its frames and axis as planned; a former result's positions contain the axis."""
    if plan.joint_illumination:
        scan = replace(scan, frames=scan.frames.undivided())
    if "positions" in plan.from_former:
        return with_former_positions(scan, plan)
    return move_axis(scan, plan.axis_pixels, scan.geometry.object_pixel_m[1])


def _aligned(
    scan: Scan, plan: Plan, probe: Tensor, scale: float, mesh: Mesh, views: NDArray[np.intp]
) -> tuple[Scan, Plan, Alignment | None]:
    """Return scan and plan, aligned if the plan searches shifts from angle to angle and they lower the misfit."""
    found = align_series(scan, plan, probe, scale, mesh, views) if plan.align else None
    if found is None or not found.is_better:
        return scan, plan, None
    return move_views(scan, found.pixels, plan.grid.voxel_size_m[1:]), with_refined_shifts(plan), found


def _alignment_warnings(alignment: Alignment | None) -> tuple[str, ...]:
    """Return a warning that the series was aligned."""
    if alignment is None:
        return ()
    return (
        f"the series was aligned: shifts of up to {alignment.largest_pixels:.1f} pixels lower the misfit between "
        f"projections and reprojections from {alignment.misfit_before:.3f} to {alignment.misfit:.3f}",
    )


def _axis_warnings(plan: Plan, axis_pixels: float | None) -> tuple[str, ...]:
    """Return warnings about the rotation axis."""
    if plan.find_axis and axis_pixels is None:
        return ("the rotation axis was not found in the holograms: the scan's axis is used; scan.axis_pixels moves it",)
    if axis_pixels is not None and abs(axis_pixels) > 1:
        return (f"the rotation axis was found {axis_pixels:+.2f} pixels along x from the scan's axis",)
    return ()
