"""The reconstruction: scan and plan in, volume out. Every rank calls it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.frames import Saturated
from bluesky_multislice.geometry import ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel, embed, initial_probe, upsample
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan
from bluesky_multislice.plausibility import pattern_warnings
from bluesky_multislice.scan import Scan
from bluesky_multislice.solvers import (
    Epoch,
    ShellCorrelation,
    Solution,
    Unknowns,
    cylinder_support,
    fit,
    halves,
    load_views,
    shell_correlation,
    split_views,
)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A volume and how it came about.

    Attributes:
        plan: what was done.
        geometry: the scan's geometry.
        solution: the unknowns and the course of the fit.
        warnings: what a person should know about the frames.
        saturated_pixels: how many pixels of all frames to fit were left out because they are saturated.
        shell_correlation: of δ from two halves of the views; None where the plan does not ask for it.
    """

    plan: Plan
    geometry: ScanGeometry
    solution: Solution
    warnings: tuple[str, ...] = ()
    saturated_pixels: int = 0
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
        """The volume's grid, as deep as it was refined to be."""
        grid, more = self.plan.grid, self.solution.differences.get("slice_spacing")
        if more is None:
            return grid
        depth = grid.voxel_size_m[0] * (1 + float(more.sum()) / grid.thickness_m)
        return replace(grid, voxel_size_m=(depth, *grid.voxel_size_m[1:]))


def reconstruct(
    scan: Scan, plan: Plan, mesh: Mesh, report: Callable[[Epoch], None] = lambda epoch: None
) -> Reconstruction:
    """Reconstruct the volume of a scan.

    Args:
        scan: what was measured; each rank reads only its own frames.
        plan: from ``make_plan``.
        mesh: the ranks.
        report: called after every epoch.

    Raises:
        FramesError: a frame cannot be used, or no frame has any light.
    """
    geometry = scan.geometry
    model = plan.forward_model(geometry).to(mesh.device)
    fitted, held = split_views(geometry.views, plan.held_back_every)
    light = _measure_light(scan, fitted[mesh.share(len(fitted))], plan.saturated, mesh)
    scale = light.scale
    probe = _first_probe(scan, plan, model, light.mean_frame) / np.sqrt(scale)
    support = cylinder_support(geometry, plan.grid) if plan.support == "cylinder" else None

    def fit_views(
        model: ForwardModel, fitted: NDArray[np.intp], held: NDArray[np.intp], report: Callable[[Epoch], None]
    ) -> Solution:
        sets = [
            load_views(scan, views[mesh.share(len(views))], scale=scale, device=mesh.device, saturated=plan.saturated)
            for views in (fitted, held)
        ]
        return fit(Unknowns(model, probe, plan.fit, mesh.device, support), sets[0], sets[1], plan.fit, mesh, report)

    solution = fit_views(model, fitted, held, report)
    agreement = None
    if plan.shell_correlation:
        pairs = zip(halves(geometry, fitted), halves(geometry, held), strict=True)
        # A model of its own each: a fit may move its windows.
        models = (plan.forward_model(geometry).to(mesh.device) for _ in range(2))
        deltas = [fit_views(each, *pair, lambda epoch: None).delta for each, pair in zip(models, pairs, strict=True)]
        axes = plan.grid.voxel_size_m if len(np.unique(geometry.angle_rad)) > 1 else plan.grid.voxel_size_m[1:]
        agreement = shell_correlation(deltas[0], deltas[1], axes)
    return Reconstruction(
        plan,
        geometry,
        solution.with_probe_in(np.sqrt(scale)),
        warnings=(*pattern_warnings(geometry, light.mean_frame), *light.warnings),
        saturated_pixels=light.saturated_pixels,
        shell_correlation=agreement,
    )


@dataclass(frozen=True, eq=False)
class _Light:
    """What the frames to fit show at a glance: mean (y, x), its mean over good pixels, and what is wrong with them."""

    mean_frame: NDArray[np.float32]
    scale: float
    saturated_pixels: int
    dark_views: int

    @property
    def warnings(self) -> tuple[str, ...]:
        found = []
        if self.dark_views:
            found.append(f"{self.dark_views} of the frames to fit have no light: leave them out of the scan")
        if self.saturated_pixels:
            found.append(f"{self.saturated_pixels} saturated pixels of the frames to fit are left out")
        return tuple(found)


def _measure_light(scan: Scan, fitted: NDArray[np.intp], saturated: Saturated, mesh: Mesh) -> _Light:
    """Look at the frames to fit of all ranks, one after the other; a saturated pixel's mean is that of other frames."""
    total, seen = (torch.zeros(scan.frames.shape, dtype=torch.float64, device=mesh.device) for _ in range(2))
    count = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for view in fitted:
        frame = torch.from_numpy(scan.frames.read(np.array([view]), saturated=saturated)[0]).to(mesh.device)
        lost = torch.isnan(frame)
        frame = frame.nan_to_num()
        total += frame
        seen += ~lost
        count += torch.stack([lost.sum(), (frame.sum() <= 0) & ~lost.any()])
    mesh.sum(total, seen, count)
    mean = (total / seen.clamp(min=1)).float().cpu().numpy()
    scale = float(mean[scan.frames.mask].mean())
    if scale <= 0:
        raise FramesError(
            "Frames must have light in them.",
            got="zero in every good pixel of every frame.",
            remedy="check the shutter, the mask and the dark frames.",
        )
    return _Light(mean, scale, int(count[0]), int(count[1]))


def _first_probe(scan: Scan, plan: Plan, model: ForwardModel, mean_frame: NDArray[np.float32]) -> torch.Tensor:
    """Return the probe (mode, y, x) to start from, in the root of the frames' units.

    A given probe that may be refined is brought to the frames' mean energy. Missing modes start as weak copies with a
    phase ramp.
    """
    finer = plan.oversampling
    if scan.probe is not None:
        near_field = scan.geometry.detector.regime == "near_field"
        probe = embed(upsample(scan.probe, finer) if near_field else scan.probe, model.window)
        if plan.fit.probe_step > 0:
            probe = probe * np.sqrt(mean_frame.sum() / float(probe.abs().square().sum()))
    else:
        geometry = scan.geometry.oversampled(finer)
        mean_frame = np.kron(mean_frame / finer**2, np.ones((finer, finer), np.float32))
        probe = initial_probe(geometry, mean_frame, window=model.window, pixel_size_m=geometry.object_pixel_m)
    ramp = torch.linspace(-np.pi, np.pi, model.window[1])
    for number in range(probe.shape[0], plan.probe_modes):
        probe = torch.cat([probe, 0.1 * probe[:1] * torch.exp(1j * number * ramp)])
    return probe
