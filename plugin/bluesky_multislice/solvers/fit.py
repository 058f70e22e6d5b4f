"""Fit of volume and probe to the measured frames, with the frames held back as the judge."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.data_step import step_to_the_bottom
from bluesky_multislice.solvers.fidelity import FIDELITIES, amplitude_r_factor
from bluesky_multislice.solvers.regularisers import penalty
from bluesky_multislice.solvers.solution import Epoch, Solution, Status
from bluesky_multislice.solvers.unknowns import FitSettings, Unknowns
from bluesky_multislice.solvers.views import ViewSet

_ADVICE: dict[Status, str] = {
    "converged": "",
    "epochs_spent": "",
    "overfitting_stopped": "",
    "diverged": "try a smaller step; check energy, distance, the positions' sign and unit, and the probe.",
}

_NEVER_BETTER = "no epoch explained the frames better than an empty volume: check that there is a sample."

_FAR_OFF = 0.05
"""Misfit, relative to the mean intensity, above which a fit that never improved on its start counts as diverged."""


def fit(
    unknowns: Unknowns,
    fitted: ViewSet,
    held_back: ViewSet,
    settings: FitSettings,
    mesh: Mesh,
    report: Callable[[Epoch], None],
) -> Solution:
    """Fit δ, β and the probe.

    Args:
        unknowns: to start from; they are moved.
        fitted: this rank's frames to fit.
        held_back: this rank's frames to judge by.
        settings: how to fit.
        mesh: the ranks.
        report: called after every epoch.

    Returns:
        the unknowns of the epoch that explained the held-back frames best (the fitted ones where none are held back),
        those from before the first epoch where none improved on them, with the status; a fit that diverges returns the
        last good unknowns and says so.
    """
    shuffle = np.random.default_rng([settings.seed, mesh.rank])
    steps = int(mesh.largest(len(fitted.batches(settings.batch_views, None))))
    patience = max(10, settings.epochs // 2)
    history: list[Epoch] = []
    start, start_loss = unknowns.copy(), _judge(unknowns, held_back, settings, mesh)[0]
    if start_loss is None:
        start_loss = _judge(unknowns, fitted, settings, mesh)[0]
    best, best_epoch, best_loss = start, 0, math.inf
    status: Status = "epochs_spent"
    began = time.monotonic()
    for number in range(1, settings.epochs + 1):
        loss = _fit_epoch(unknowns, fitted, fitted.batches(settings.batch_views, shuffle), steps, settings, mesh)
        _follow(unknowns, held_back, settings)
        judged, _ = _judge(unknowns, held_back, settings, mesh)
        history.append(Epoch(number, loss, judged, time.monotonic() - began))
        report(history[-1])
        measure = loss if judged is None else judged
        if not (math.isfinite(measure) and unknowns.finite()):
            status = "diverged"
            break
        if measure < best_loss:
            best, best_epoch, best_loss = unknowns.copy(), number, measure
        elif number - best_epoch >= patience:
            status = "converged" if judged is None else "overfitting_stopped"
            break
        unknowns.end_epoch()
    if start_loss is not None and best_loss >= start_loss:
        best, best_epoch = start, 0
        status = "diverged" if best_loss > _FAR_OFF else status
    unknowns.restore(best)
    return Solution(
        delta=unknowns.delta.detach(),
        beta=unknowns.beta.detach(),
        probe=unknowns.probe.detach(),
        status=status,
        advice=_ADVICE[status] if best_epoch or status == "diverged" else _NEVER_BETTER,
        best_epoch=best_epoch,
        history=tuple(history),
        r_factor=_judge(unknowns, fitted, settings, mesh)[1],
        held_back_r_factor=_judge(unknowns, held_back, settings, mesh)[1],
        differences=unknowns.differences,
    )


def _fit_epoch(
    unknowns: Unknowns,
    fitted: ViewSet,
    batches: list[NDArray[np.intp]],
    steps: int,
    settings: FitSettings,
    mesh: Mesh,
) -> float:
    """Move once for every batch; a rank whose batches are spent still takes part in the exchange of each step."""
    total = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for at in range(steps):
        misfit = torch.zeros(2, device=mesh.device)
        if at < len(batches):
            misfit = _backward(unknowns, fitted, batches[at], settings)
        gradients = unknowns.gradients()
        mesh.sum(misfit, *gradients)
        for gradient in gradients:
            gradient /= misfit[1]
        if unknowns.optimiser.waits:
            batch = batches[at] if at < len(batches) else np.arange(0)
            way = step_to_the_bottom(unknowns, fitted, batch, settings.object_step_rad, mesh)
            unknowns.optimiser.start(way)
        if settings.priors.weighted:
            penalty(unknowns.object, settings.priors, settings.object_step_rad).backward()
        unknowns.step()
        total += misfit
    return float(total[0] / total[1])


def _backward(unknowns: Unknowns, fitted: ViewSet, batch: NDArray[np.intp], settings: FitSettings) -> Tensor:
    """Add a batch's gradients and return its misfit and its number of pixels."""
    misfit = _misfit(unknowns, fitted, batch, settings)
    misfit.backward()
    return torch.stack([misfit.detach(), len(batch) * fitted.mask.sum()])


def _follow(unknowns: Unknowns, held_back: ViewSet, settings: FitSettings) -> None:
    """Let the positions of frames held back, and the like, follow the volume, which these frames do not move."""
    if unknowns.follows:
        for batch in held_back.batches(settings.batch_views, None):
            unknowns.follow(_misfit(unknowns, held_back, batch, settings))


def _misfit(unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp], settings: FitSettings) -> Tensor:
    expected, measured = unknowns.expect(frames.views[batch]), frames.amplitude[batch]
    return FIDELITIES[settings.fidelity](expected, measured, frames.mask)


@torch.no_grad()
def _judge(
    unknowns: Unknowns, frames: ViewSet, settings: FitSettings, mesh: Mesh
) -> tuple[float, float] | tuple[None, None]:
    """Return mean misfit and R-factor over all ranks' frames, None where there are none."""
    total = torch.zeros(4, dtype=torch.float64, device=mesh.device)
    for batch in frames.batches(settings.batch_views, None):
        expected, measured = unknowns.expect(frames.views[batch]), frames.amplitude[batch]
        misfit = FIDELITIES[settings.fidelity](expected, measured, frames.mask)
        pixels = len(batch) * frames.mask.sum()
        total += torch.stack([misfit, pixels, *amplitude_r_factor(expected, measured, frames.mask)])
    mesh.sum(total)
    if total[1] == 0:
        return None, None
    return float(total[0] / total[1]), float(total[2] / total[3])
