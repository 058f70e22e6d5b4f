"""Fit of volume and probe to the measured frames, with the frames held back as the judge."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.conjugate_gradients import ConjugateGradients
from bluesky_multislice.solvers.data_step import step_to_the_bottom
from bluesky_multislice.solvers.fidelity import FIDELITIES, amplitude_r_factor
from bluesky_multislice.solvers.misfit import add_gradients, misfit_of
from bluesky_multislice.solvers.regularisers import add_gradient_of_penalty, noise_of_vacuum
from bluesky_multislice.solvers.solution import Epoch, Solution, Status
from bluesky_multislice.solvers.unknowns import FitSettings, Unknowns
from bluesky_multislice.solvers.views import ViewSet

_ADVICE: dict[Status, str] = {
    "converged": "",
    "epochs_spent": "",
    "overfitting_stopped": "",
    "stalled": "the frames are explained hardly better than by an empty volume: check that there is a sample and light "
    "enough to see it, energy, distance, orientation, and the positions' sign and unit.",
    "diverged": "try a smaller step; check energy, distance, the positions' sign and unit, and the probe.",
}

_HARDLY_BETTER = 0.9
"""Misfit over that of the empty start, above which a fit counts as stalled."""

_FAR_OFF = 4.0
"""Misfit over the start's, above which a fit that never improved on it counts as diverged.

Noise makes any misfit, but no fit of it gets this far: 1.7 was seen.
"""

_LEAP = 1.5
"""Misfit over the best epoch's, above which weighted descent goes back to the best unknowns and on with half its steps.

Frames that contradict each other, by a beam that flickers, make steps too long that serve others.
"""

_STANDS_STILL = 0.99
"""Misfit of the fitted frames over that in the best epoch, below which a fit has gone on to fit their noise."""

_LIGHT_FLOOR = 1.0
"""Light that counts for every voxel, relative to the most that one gets: what gets hardly any moves twofold."""


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
        fitted: views to fit, with this rank's frames.
        held_back: views to judge by, with this rank's frames.
        settings: how to fit.
        mesh: the ranks.
        report: called after every epoch.

    Returns:
        the unknowns of the epoch that explained the held-back frames best (the fitted ones where none are held back),
        those from before the first epoch where none improved on them, with the status; a fit that diverges returns the
        last good unknowns and says so.
    """
    shuffles = {lane: np.random.default_rng([settings.seed, lane]) for lane in fitted.lanes()}
    steps = int(mesh.largest(len(fitted.steps(settings.batch_views, dict.fromkeys(shuffles)))))
    patience = max(10, settings.epochs // 2)
    history: list[Epoch] = []
    empty = unknowns.empty
    start_loss = judge(unknowns, held_back, settings, mesh)[0]
    if start_loss is None:
        start_loss = judge(unknowns, fitted, settings, mesh)[0]
    least_loss = math.inf if start_loss is None else start_loss
    best, best_epoch, best_loss = unknowns.copy(), 0, math.inf
    status: Status = "epochs_spent"
    noise = 0.0
    began = time.monotonic()
    end_game = None
    for number in range(1, settings.epochs + settings.polish + 1):
        if number <= settings.epochs:
            batches = fitted.steps(settings.batch_views, shuffles)
            batches += [[]] * (steps - len(batches))
            loss, noise = _fit_epoch(unknowns, fitted, batches, settings, mesh, noise)
        else:
            if end_game is None:
                weight = _weight(unknowns, fitted, mesh)
                end_game = ConjugateGradients(unknowns, fitted, settings, weight, noise, mesh)
            loss = end_game.step()
        _follow(unknowns, held_back, settings)
        judged, _ = judge(unknowns, held_back, settings, mesh)
        history.append(Epoch(number, loss, judged, time.monotonic() - began, fitted.coarseness))
        report(history[-1])
        measure = loss if judged is None else judged
        if not (math.isfinite(measure) and unknowns.finite()):
            status = "diverged"
            break
        if measure < best_loss:
            if measure < least_loss:
                best = unknowns.copy(over=best)
            best_epoch, best_loss = number, measure
        elif number - best_epoch >= patience:
            falls = judged is not None and loss < _STANDS_STILL * history[best_epoch - 1].loss
            status = "overfitting_stopped" if falls else "converged"
            break
        unknowns.end_epoch()
        if measure > _LEAP * best_loss and settings.optimiser == "weighted":
            unknowns.restore(best)
            unknowns.halve_steps()
    if best_loss >= least_loss:
        best_epoch = 0
        status = "diverged" if best_loss > _FAR_OFF * least_loss else status
    if status != "diverged" and empty and best_loss > _HARDLY_BETTER * least_loss:
        status = "stalled"
    unknowns.restore(best)
    return Solution(
        delta=unknowns.delta.detach(),
        beta=unknowns.beta.detach(),
        probe=unknowns.probe.detach(),
        status=status,
        advice=_ADVICE[status],
        best_epoch=best_epoch,
        history=tuple(history),
        r_factor=judge(unknowns, fitted, settings, mesh)[1],
        held_back_r_factor=judge(unknowns, held_back, settings, mesh)[1],
        differences=unknowns.differences,
    )


def _fit_epoch(
    unknowns: Unknowns,
    fitted: ViewSet,
    steps: list[list[NDArray[np.intp]]],
    settings: FitSettings,
    mesh: Mesh,
    noise: float,
) -> tuple[float, float]:
    """Move once for every batch; a rank whose batches are spent still takes part in the exchange of each step."""
    total = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for batches in steps:
        misfit = torch.zeros(2, device=mesh.device)
        for batch in batches:
            misfit += add_gradients(unknowns, fitted, batch, settings)
        gradients = unknowns.gradients()
        mesh.sum(misfit)
        unknowns.sum_gradients(mesh)
        for gradient in gradients:
            gradient /= misfit[1]
        if unknowns.optimiser.waits:
            weight = _weight(unknowns, fitted, mesh)
            uphill = weight * gradients[0]
            way = step_to_the_bottom(unknowns, fitted, batches, uphill, settings.object_step_rad, mesh)
            unknowns.optimiser.start(way, weight)
        priors, floor = settings.priors, settings.object_step_rad
        add_gradient_of_penalty(unknowns.object, gradients[0], priors, floor, noise, unknowns.slab)
        unknowns.step()
        total += misfit
    loss = float(total[0] / total[1])
    lateral = round(unknowns.slab.total(unknowns.object[0, 0].numel()))
    return loss, noise_of_vacuum(loss, lateral_pixels=lateral, measured_pixels=int(total[1]))


def _weight(unknowns: Unknowns, fitted: ViewSet, mesh: Mesh) -> Tensor:
    """Return the factor (z, y, x) on each voxel's gradient that makes up for less light, at most twofold."""
    light = unknowns.exposure(fitted.views)
    mesh.sum_over_angles(light)
    return light.div_(unknowns.slab.largest(float(light.max()))).add_(_LIGHT_FLOOR).reciprocal_()


def _follow(unknowns: Unknowns, held_back: ViewSet, settings: FitSettings) -> None:
    """Let the positions of frames held back, and the like, follow the volume, which these frames do not move."""
    if unknowns.follows:
        for batch in held_back.batches(settings.batch_views, None):
            unknowns.follow(misfit_of(unknowns, held_back, batch, settings), held_back.views[batch])


@torch.no_grad()
def judge(
    unknowns: Unknowns, frames: ViewSet, settings: FitSettings, mesh: Mesh
) -> tuple[float, float] | tuple[None, None]:
    """Return mean misfit and R-factor over all ranks' frames, None where there are none.

    Args:
        unknowns: what is judged.
        frames: this rank's frames.
        settings: of the fit.
        mesh: the ranks.
    """
    total = torch.zeros(4, dtype=torch.float64, device=mesh.device)
    for batch in frames.batches(settings.batch_views, None):
        expected, measured = unknowns.expect(frames.views[batch]), frames.measured(batch)
        misfit = FIDELITIES[settings.fidelity](expected, measured, frames.mask)
        pixels = len(expected) * frames.mask.sum()
        total += torch.stack([misfit, pixels, *amplitude_r_factor(expected, measured, frames.mask)])
    mesh.sum(total)
    if total[1] == 0:
        return None, None
    return float(total[0] / total[1]), float(total[2] / total[3])
