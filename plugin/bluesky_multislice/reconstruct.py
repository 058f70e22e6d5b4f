"""The reconstruction: scan and plan in, volume out. Every rank calls it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.geometry import ScanGeometry
from bluesky_multislice.models import ForwardModel, embed, initial_probe, upsample
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan
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
        shell_correlation: of δ from two halves of the views; None where the plan does not ask for it.
    """

    plan: Plan
    geometry: ScanGeometry
    solution: Solution
    shell_correlation: ShellCorrelation | None = None


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
    mean_frame, scale = _mean_frame(scan, fitted[mesh.share(len(fitted))], mesh)
    probe = _first_probe(scan, plan, model, mean_frame) / np.sqrt(scale)
    support = cylinder_support(geometry, plan.grid) if plan.support == "cylinder" else None

    def fit_views(
        model: ForwardModel, fitted: NDArray[np.intp], held: NDArray[np.intp], report: Callable[[Epoch], None]
    ) -> Solution:
        sets = [
            load_views(scan, views[mesh.share(len(views))], scale=scale, device=mesh.device) for views in (fitted, held)
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
    return Reconstruction(plan, geometry, solution.with_probe_in(np.sqrt(scale)), agreement)


def _mean_frame(scan: Scan, fitted: NDArray[np.intp], mesh: Mesh) -> tuple[NDArray[np.float32], float]:
    """Return the mean of the fitted frames (y, x) and its mean over good pixels."""
    total = torch.zeros(scan.frames.shape, dtype=torch.float64, device=mesh.device)
    count = torch.tensor(len(fitted), dtype=torch.float64, device=mesh.device)
    for view in fitted:
        total += torch.from_numpy(scan.frames.read(np.array([view]))[0]).to(mesh.device)
    mesh.sum(total, count)
    mean = (total / count).float().cpu().numpy()
    scale = float(mean[scan.frames.mask].mean())
    if scale <= 0:
        raise FramesError(
            "Frames must have light in them.",
            got="zero in every good pixel of every frame.",
            remedy="check the shutter, the mask and the dark frames.",
        )
    return mean, scale


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
