"""Fit of object and probe to the measured frames, evaluated on validation frames."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.optics import DeferredScalar, on_device
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.conjugate_gradients import ConjugateGradients
from bluesky_multislice.solvers.fidelity import FIDELITIES
from bluesky_multislice.solvers.frame_misfits import frame_misfits
from bluesky_multislice.solvers.journal import FitJournal
from bluesky_multislice.solvers.line_search import line_search_step
from bluesky_multislice.solvers.misfit import add_gradients, expected_and_measured, misfit_of
from bluesky_multislice.solvers.optimisers import FusedStep
from bluesky_multislice.solvers.priors import Penalty, Scales, vacuum_noise_weight
from bluesky_multislice.solvers.progress import EpochProgress, FitProgress, load_random_state, random_state
from bluesky_multislice.solvers.solution import Epoch, Solution, Status
from bluesky_multislice.solvers.unknowns import Unknowns
from bluesky_multislice.solvers.views import ViewSet

_ADVICE: dict[Status, str] = {
    "converged": "",
    "epochs_spent": "",
    "overfitting_stopped": "",
    "stalled": "the frames are explained hardly better than by an empty volume: check that the sample is in the beam, "
    "the exposure, energy, distance, orientation, and the positions' sign and unit.",
    "diverged": "try a smaller step; check energy, distance, the positions' sign and unit, and the probe.",
}

_STALL_RATIO = 0.9
"""Ratio of misfits, best epoch to empty initial guess, above which a fit counts as stalled."""

_DIVERGENCE_RATIO = 4.0
"""Ratio of misfits, an epoch to the initial guess, above which the epoch counts as diverged.

Noise alone raised the misfit by at most a factor of 1.7.
"""

_MOST_RETREATS = 8
"""Number of diverged epochs after which a fit counts as diverged. Until then, each halves the steps."""

_BACKTRACK_RATIO = 1.5
"""Ratio of misfits, this epoch to the best, above which weighted descent restores the best unknowns.

It then halves its steps. Inconsistent frames, for instance from a flickering beam, make otherwise suitable steps too
long.
"""

_OVERFITTING_RATIO = 0.99
"""Ratio of the misfits of fitted frames, last to best epoch, below which the fit overfits their noise."""

_EXPOSURE_FLOOR = 1.0
"""Exposure added to that of every voxel, relative to the maximum: weakly exposed voxels move at most twice as far."""


def fit(
    unknowns: Unknowns,
    fitted: ViewSet,
    held_back: ViewSet,
    mesh: Mesh,
    report: Callable[[Epoch], None],
    journal: FitJournal | None = None,
) -> Solution:
    """Fit δ, β and the probe.

    Args:
        unknowns: the initial guess; updated in place.
        fitted: views to fit, with this rank's frames.
        held_back: validation views, with this rank's frames.
        mesh: the ranks.
        report: called after every epoch, including the epochs of an earlier run.
        journal: writes checkpoints, and resumes from the checkpoint of an earlier run.

    Returns:
        the unknowns of the epoch with the lowest misfit on the validation frames (on the fitted frames if none are held
        back), or the initial guess if no epoch improved on it. After divergence, they are the last good unknowns; see
        ``status``.

    Raises:
        Interrupted: a stop of the job was requested; the journal has written the state.
    """
    loop = _Loop(unknowns, fitted, held_back, mesh)
    kept = journal.load() if journal else None
    progress = loop.resume(*kept) if kept else loop.start()
    for epoch in progress.history:
        report(epoch)
    if not progress.ended:
        loop.run(report, journal)
        _set_status(progress)
        unknowns.restore(loop.best)
        if journal:
            journal.end(progress, lambda: unknowns.state({}, mesh))
    of_fitted, of_held_back = (frame_misfits(unknowns, frames, mesh) for frames in (fitted, held_back))
    return Solution(
        delta=unknowns.delta.detach(),
        beta=unknowns.beta.detach(),
        probe=unknowns.probe.detach(),
        status=progress.status,
        advice=_ADVICE[progress.status],
        best_epoch=progress.best_epoch,
        history=tuple(progress.history),
        r_factor=of_fitted.r_factor,
        held_back_r_factor=of_held_back.r_factor,
        differences=unknowns.differences,
        penalties=_penalty(unknowns, progress.noise).values(unknowns.object.detach()),
        frame_misfits=of_fitted.merge(of_held_back),
    )


class _Loop:
    """The loop over epochs and its state; see ``fit`` for the arguments."""

    def __init__(self, unknowns: Unknowns, fitted: ViewSet, held_back: ViewSet, mesh: Mesh) -> None:
        self._unknowns, self._fitted, self._held_back = unknowns, fitted, held_back
        self._settings, self._mesh = unknowns.settings, mesh
        self._shuffles = {lane: np.random.default_rng([unknowns.settings.seed, lane]) for lane in fitted.lanes()}
        self._steps = int(mesh.largest(len(self._batches_of_steps(dict.fromkeys(self._shuffles)))))
        self._lanes = 1 + int(mesh.largest(max(self._shuffles, default=0)))
        self._polish: ConjugateGradients | None = None
        self._progress: FitProgress
        self.best: dict[str, Tensor | None]

    def start(self) -> FitProgress:
        """Evaluate the initial guess."""
        loss = evaluate(self._unknowns, self._held_back, self._mesh)
        if loss is None:
            loss = evaluate(self._unknowns, self._fitted, self._mesh)
        self._progress = FitProgress(self._unknowns.empty, math.inf if loss is None else loss)
        self.best = self._unknowns.copy()
        return self._progress

    def resume(self, progress: FitProgress, state: Mapping[str, Tensor]) -> FitProgress:
        """Restore the checkpoint of an earlier run."""
        self._progress, self.best = progress, self._unknowns.load(state, self._mesh)
        if progress.ended:
            # The result of a fit is kept without what only its further epochs need.
            return progress
        load_random_state(state, self._shuffles)
        if len(progress.history) > self._settings.epochs:
            self._polish = self._conjugate_gradients()
            self._polish.load(state)
        return progress

    def run(self, report: Callable[[Epoch], None], journal: FitJournal | None) -> None:
        """Run the remaining epochs."""
        settings, progress, unknowns = self._settings, self._progress, self._unknowns
        patience = max(10, settings.epochs // 2)
        began = time.monotonic() - progress.seconds
        for number in range(len(progress.history) + 1, settings.epochs + settings.polish + 1):
            loss = self._move(number, journal)
            _update_held_back_views(unknowns, self._held_back)
            validation_loss = evaluate(unknowns, self._held_back, self._mesh)
            seconds = time.monotonic() - began
            progress.history.append(Epoch(number, loss, validation_loss, seconds, self._fitted.coarseness))
            report(progress.history[-1])
            measure = _measure(progress.history[-1])
            diverged = not unknowns.finite() or _diverged(measure, progress)
            if diverged and sum(_diverged(_measure(epoch), progress) for epoch in progress.history) > _MOST_RETREATS:
                progress.status = "diverged"
                break
            if measure < progress.best_loss:
                if measure < progress.initial_loss:
                    self.best = unknowns.copy(over=self.best)
                progress.best_epoch, progress.best_loss = number, measure
            elif number - progress.best_epoch >= patience and not diverged:
                best_fitted_loss = progress.history[progress.best_epoch - 1].loss
                overfits = validation_loss is not None and loss < _OVERFITTING_RATIO * best_fitted_loss
                progress.status = "overfitting_stopped" if overfits else "converged"
                break
            unknowns.end_epoch()
            too_long = measure > _BACKTRACK_RATIO * progress.best_loss and settings.optimiser == "weighted"
            if diverged or too_long:
                unknowns.restore(self.best)
                unknowns.halve_steps()
            if diverged:
                unknowns.reset_refinement()
            if journal:
                journal.end_epoch(progress, self._state)

    def _move(self, number: int, journal: FitJournal | None) -> float:
        """Run an epoch; return the mean misfit, each frame evaluated before its step."""
        if number <= self._settings.epochs:
            return self._descend(journal)
        if self._polish is None:
            self._polish = self._conjugate_gradients()
        return self._polish.step()

    def _conjugate_gradients(self) -> ConjugateGradients:
        weight = _weight(self._unknowns, self._fitted, self._mesh)
        return ConjugateGradients(self._unknowns, self._fitted, weight, self._progress.noise, self._mesh)

    def _batches_of_steps(self, shuffles: Mapping[int, np.random.Generator | None]) -> list[list[NDArray[np.intp]]]:
        """Return the batches of each step of an epoch: some of every lane that has batches left."""
        rounds, per_lane = self._fitted.steps(self._settings.batch_views, shuffles), self._settings.batches_per_lane
        starts = range(0, len(rounds), per_lane)
        return [[batch for batches in rounds[at : at + per_lane] for batch in batches] for at in starts]

    def _descend(self, journal: FitJournal | None) -> float:
        """Run the remaining steps of an epoch; return its mean misfit, each frame evaluated before its step."""
        settings, progress, unknowns = self._settings, self._progress, self._unknowns
        random = random_state(self._mesh.rank, self._shuffles)
        steps = self._batches_of_steps(self._shuffles)
        # A rank without batches left still takes part in the collective calls of each step.
        steps += [[]] * (self._steps - len(steps))
        partial = EpochProgress(self._lanes, settings.batch_views, settings.batches_per_lane)
        if progress.partial_epoch and replace(progress.partial_epoch, steps=0, misfit=0.0, pixels=0.0) == partial:
            partial = progress.partial_epoch
        total = on_device([partial.misfit, partial.pixels], self._mesh.device, torch.float64)
        vote = _CheckpointVote(self._mesh)
        for done, batches in enumerate(steps[partial.steps :], start=partial.steps + 1):
            wanted = bool(journal and journal.wants_checkpoint())
            sums = self._step(batches, wanted=wanted)
            total += sums[:2]
            if journal and vote.after(sums[2], here=wanted) and done < len(steps):
                progress.partial_epoch = replace(partial, steps=done, misfit=float(total[0]), pixels=float(total[1]))
                journal.end_step(progress, lambda: self._state(random))
        progress.partial_epoch = None
        loss = float(total[0] / total[1])
        lateral = round(unknowns.slab.total(unknowns.object[0, 0].numel()))
        progress.noise = vacuum_noise_weight(loss, lateral_pixels=lateral, measured_pixels=int(total[1]))
        return loss

    def _step(self, batches: list[NDArray[np.intp]], *, wanted: bool) -> Tensor:
        """Take a step; return misfit and pixels over all ranks, and the number of ranks that request a checkpoint."""
        unknowns, mesh = self._unknowns, self._mesh
        misfit = add_gradients(unknowns, self._fitted, batches)
        sums = torch.cat([misfit, torch.full_like(misfit[:1], wanted)])
        unknowns.sum_small_gradients(mesh, sums)
        penalty, weights = _penalty(unknowns, self._progress.noise, unknowns.optimiser.relative_step), None
        # A fused step adds the common pass itself, unless several ranks with the same rows share the penalty's work.
        fused = unknowns.optimiser.can_fuse_step
        if fused and mesh.angles == 1:
            weights, penalty = penalty.voxel_weights(unknowns.object), penalty.outside_common_pass
        # Each rank with these rows adds its share of the penalty, times the pixels by which the sum is divided below.
        penalty.add_gradient(unknowns.object, unknowns.gradients()[0], weight=sums[1], share=(mesh.angle, mesh.angles))
        unknowns.volume.sum_gradient(mesh, divisor=None if fused else sums[1])
        if unknowns.optimiser.needs_first_step:
            weight = _weight(unknowns, self._fitted, mesh)
            direction = unknowns.volume.weighted_gradient(weight)
            step = line_search_step(unknowns, self._fitted, batches, direction, self._settings.object_step_rad, mesh)
            unknowns.initialise_optimiser(step, weight)
        unknowns.step(FusedStep(sums[1], weights) if fused else None)
        return sums

    def _state(self, random: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the tensors from which the fit resumes, by name; see ``Unknowns.state``.

        Args:
            random: random state to resume with; None: the present one.
        """
        random = random_state(self._mesh.rank, self._shuffles) if random is None else random
        state = self._unknowns.state(self.best, self._mesh) | dict(random)
        return state if self._polish is None else state | self._polish.state()


class _CheckpointVote:
    """Decides whether any rank requests a checkpoint between two steps; on accelerators with a delay of one step."""

    def __init__(self, mesh: Mesh) -> None:
        self._alone, self._number = mesh.size == 1, DeferredScalar()

    def after(self, ranks: Tensor, *, here: bool) -> bool:
        """Return whether to write a checkpoint after this step.

        Args:
            ranks: 0-d, number of ranks that request it.
            here: whether this rank does.
        """
        return here if self._alone else self._number.read(ranks) > 0


def _measure(epoch: Epoch) -> float:
    """Return the misfit by which an epoch is judged: of the validation frames, or of the fitted ones without any."""
    return epoch.loss if epoch.held_back_loss is None else epoch.held_back_loss


def _diverged(measure: float, progress: FitProgress) -> bool:
    return not measure <= _DIVERGENCE_RATIO * progress.initial_loss


def _set_status(progress: FitProgress) -> None:
    """Set the status of a finished fit."""
    if progress.best_loss >= progress.initial_loss:
        progress.best_epoch = 0
        if progress.best_loss > _DIVERGENCE_RATIO * progress.initial_loss:
            progress.status = "diverged"
    if progress.status != "diverged" and progress.empty and progress.best_loss > _STALL_RATIO * progress.initial_loss:
        progress.status = "stalled"
    progress.ended = True


def _penalty(unknowns: Unknowns, noise: float, relative_step: float = 0.0) -> Penalty:
    settings = unknowns.settings
    return settings.priors.penalty(Scales(settings.object_step_rad, noise, relative_step), unknowns.slab)


def _weight(unknowns: Unknowns, fitted: ViewSet, mesh: Mesh) -> Tensor:
    """Return the factor (z, y, x) on each voxel's gradient that compensates for low exposure, at most twofold."""
    exposure = unknowns.exposure(fitted.views)
    mesh.sum_over_angles(exposure)
    largest = unknowns.slab.largest(float(torch.linalg.vector_norm(exposure, torch.inf)))
    return exposure.div_(largest).add_(_EXPOSURE_FLOOR).reciprocal_()


def _update_held_back_views(unknowns: Unknowns, held_back: ViewSet) -> None:
    """Accumulate gradients for the refined quantities of validation views; these frames do not change the object."""
    if unknowns.refines_views:
        for batch in held_back.batches(unknowns.settings.batch_views, None):
            unknowns.add_view_gradients(misfit_of(unknowns, held_back, batch), held_back.views[batch])


@torch.no_grad()
def evaluate(unknowns: Unknowns, frames: ViewSet, mesh: Mesh) -> float | None:
    """Return the mean misfit over all ranks' frames; None if there are no frames.

    Args:
        unknowns: the unknowns to evaluate.
        frames: this rank's frames.
        mesh: the ranks.
    """
    settings = unknowns.settings
    total = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for expected, measured in expected_and_measured(unknowns, frames, frames.batches(settings.batch_views, None)):
        misfit = FIDELITIES[settings.fidelity](expected, measured, frames.mask)
        total += torch.stack([misfit, len(expected) * frames.mask.sum()])
        del expected, measured
    mesh.sum(total)
    return None if total[1] == 0 else float(total[0] / total[1])
