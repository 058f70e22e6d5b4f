"""Fit of volume and probe to the measured frames, with the frames held back as the judge."""

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
from bluesky_multislice.solvers.course import Begun, Course, load_random_state, random_state
from bluesky_multislice.solvers.data_step import step_to_the_bottom
from bluesky_multislice.solvers.fidelity import FIDELITIES, amplitude_r_factor
from bluesky_multislice.solvers.journal import FitJournal
from bluesky_multislice.solvers.misfit import add_gradients, expected_and_measured, misfit_of
from bluesky_multislice.solvers.optimisers import OnePass
from bluesky_multislice.solvers.priors import add_gradient_of_penalty, noise_of_vacuum, weights_of_slab
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
    journal: FitJournal | None = None,
) -> Solution:
    """Fit δ, β and the probe.

    Args:
        unknowns: to start from; they are moved.
        fitted: views to fit, with this rank's frames.
        held_back: views to judge by, with this rank's frames.
        settings: how to fit.
        mesh: the ranks.
        report: called after every epoch, also those that an earlier run has done.
        journal: keeps the state now and then, and may know that of an earlier run, which then goes on.

    Returns:
        the unknowns of the epoch that explained the held-back frames best (the fitted ones where none are held back),
        those from before the first epoch where none improved on them, with the status; a fit that diverges returns the
        last good unknowns and says so.

    Raises:
        Interrupted: the job was asked to stop, and the journal has kept the state.
    """
    loop = _Loop(unknowns, fitted, held_back, settings, mesh)
    kept = journal.load() if journal else None
    course = loop.go_on(*kept) if kept else loop.begin()
    for epoch in course.history:
        report(epoch)
    if not course.ended:
        loop.run(report, journal)
        _settle(course)
        unknowns.restore(loop.best)
        if journal:
            journal.end(course, lambda: unknowns.state([], mesh))
    return Solution(
        delta=unknowns.delta.detach(),
        beta=unknowns.beta.detach(),
        probe=unknowns.probe.detach(),
        status=course.status,
        advice=_ADVICE[course.status],
        best_epoch=course.best_epoch,
        history=tuple(course.history),
        r_factor=judge(unknowns, fitted, settings, mesh)[1],
        held_back_r_factor=judge(unknowns, held_back, settings, mesh)[1],
        differences=unknowns.differences,
    )


class _Loop:
    """The epochs of a fit, see ``fit`` for the arguments, and all that they carry from one to the next."""

    def __init__(
        self, unknowns: Unknowns, fitted: ViewSet, held_back: ViewSet, settings: FitSettings, mesh: Mesh
    ) -> None:
        self._unknowns, self._fitted, self._held_back = unknowns, fitted, held_back
        self._settings, self._mesh = settings, mesh
        self._shuffles = {lane: np.random.default_rng([settings.seed, lane]) for lane in fitted.lanes()}
        self._steps = int(mesh.largest(len(self._batches_of_steps(dict.fromkeys(self._shuffles)))))
        self._lanes = 1 + int(mesh.largest(max(self._shuffles, default=0)))
        self._end_game: ConjugateGradients | None = None
        self._course: Course
        self.best: list[Tensor | None]

    def begin(self) -> Course:
        """Judge what the fit starts from."""
        loss = judge(self._unknowns, self._held_back, self._settings, self._mesh)[0]
        if loss is None:
            loss = judge(self._unknowns, self._fitted, self._settings, self._mesh)[0]
        self._course = Course(self._unknowns.empty, math.inf if loss is None else loss)
        self.best = self._unknowns.copy()
        return self._course

    def go_on(self, course: Course, state: Mapping[str, Tensor]) -> Course:
        """Take up what an earlier run has kept."""
        self._course, self.best = course, self._unknowns.load(state, self._mesh)
        load_random_state(state, self._shuffles)
        if len(course.history) > self._settings.epochs and not course.ended:
            self._end_game = self._conjugate_gradients()
            self._end_game.load(state)
        return course

    def run(self, report: Callable[[Epoch], None], journal: FitJournal | None) -> None:
        """Do the epochs that are left."""
        settings, course, unknowns = self._settings, self._course, self._unknowns
        patience = max(10, settings.epochs // 2)
        began = time.monotonic() - course.seconds
        for number in range(len(course.history) + 1, settings.epochs + settings.polish + 1):
            loss = self._move(number, journal)
            _follow(unknowns, self._held_back, settings)
            judged, _ = judge(unknowns, self._held_back, settings, self._mesh)
            course.history.append(Epoch(number, loss, judged, time.monotonic() - began, self._fitted.coarseness))
            report(course.history[-1])
            measure = loss if judged is None else judged
            if not (math.isfinite(measure) and unknowns.finite()):
                course.status = "diverged"
                break
            if measure < course.best_loss:
                if measure < course.least_loss:
                    self.best = unknowns.copy(over=self.best)
                course.best_epoch, course.best_loss = number, measure
            elif number - course.best_epoch >= patience:
                falls = judged is not None and loss < _STANDS_STILL * course.history[course.best_epoch - 1].loss
                course.status = "overfitting_stopped" if falls else "converged"
                break
            unknowns.end_epoch()
            if measure > _LEAP * course.best_loss and settings.optimiser == "weighted":
                unknowns.restore(self.best)
                unknowns.halve_steps()
            if journal:
                journal.end_epoch(course, self._state)

    def _move(self, number: int, journal: FitJournal | None) -> float:
        """Do an epoch, and return the mean misfit before each of its steps."""
        if number <= self._settings.epochs:
            return self._descend(journal)
        if self._end_game is None:
            self._end_game = self._conjugate_gradients()
        return self._end_game.step()

    def _conjugate_gradients(self) -> ConjugateGradients:
        weight = _weight(self._unknowns, self._fitted, self._mesh)
        return ConjugateGradients(self._unknowns, self._fitted, self._settings, weight, self._course.noise, self._mesh)

    def _batches_of_steps(self, shuffles: Mapping[int, np.random.Generator | None]) -> list[list[NDArray[np.intp]]]:
        """Return the batches of each step of an epoch: some of every lane, as long as it has any left."""
        rounds, per_lane = self._fitted.steps(self._settings.batch_views, shuffles), self._settings.batches_per_lane
        starts = range(0, len(rounds), per_lane)
        return [[batch for batches in rounds[at : at + per_lane] for batch in batches] for at in starts]

    def _descend(self, journal: FitJournal | None) -> float:
        """Take the steps of an epoch that are left, and return the mean misfit before each of all."""
        settings, course, unknowns = self._settings, self._course, self._unknowns
        random = random_state(self._mesh.rank, self._shuffles)
        steps = self._batches_of_steps(self._shuffles)
        # A rank whose batches are spent still takes part in the exchange of each step.
        steps += [[]] * (self._steps - len(steps))
        begun = Begun(self._lanes, settings.batch_views, settings.batches_per_lane)
        if course.begun and replace(course.begun, steps=0, misfit=0.0, pixels=0.0) == begun:
            begun = course.begun
        total = on_device([begun.misfit, begun.pixels], self._mesh.device, torch.float64)
        wanting = _Wanting(self._mesh)
        for done, batches in enumerate(steps[begun.steps :], start=begun.steps + 1):
            wanted = bool(journal and journal.wants_the_state())
            sums = _step(unknowns, self._fitted, batches, settings, self._mesh, course.noise, wanted)
            total += sums[:2]
            if journal and wanting.after(sums[2], here=wanted) and done < len(steps):
                course.begun = replace(begun, steps=done, misfit=float(total[0]), pixels=float(total[1]))
                journal.end_step(course, lambda: self._state(random))
        course.begun = None
        loss = float(total[0] / total[1])
        lateral = round(unknowns.slab.total(unknowns.object[0, 0].numel()))
        course.noise = noise_of_vacuum(loss, lateral_pixels=lateral, measured_pixels=int(total[1]))
        return loss

    def _state(self, random: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the tensors that are needed to go on, by name; see ``Unknowns.state``.

        Args:
            random: state of random numbers to go on with; None: the present one.
        """
        random = random_state(self._mesh.rank, self._shuffles) if random is None else random
        state = self._unknowns.state(self.best, self._mesh) | dict(random)
        return state if self._end_game is None else state | self._end_game.state()


class _Wanting:
    """Whether some rank wants the state kept between two steps; on accelerators all ranks know it one step later."""

    def __init__(self, mesh: Mesh) -> None:
        self._alone, self._number = mesh.size == 1, DeferredScalar()

    def after(self, ranks: Tensor, *, here: bool) -> bool:
        """Return whether to keep the state after a step.

        Args:
            ranks: 0-d, how many ranks want it.
            here: whether this one does.
        """
        return here if self._alone else self._number.read(ranks) > 0


def _settle(course: Course) -> None:
    """Say what became of a fit whose epochs are done."""
    if course.best_loss >= course.least_loss:
        course.best_epoch = 0
        if course.best_loss > _FAR_OFF * course.least_loss:
            course.status = "diverged"
    if course.status != "diverged" and course.empty and course.best_loss > _HARDLY_BETTER * course.least_loss:
        course.status = "stalled"
    course.ended = True


def _step(
    unknowns: Unknowns,
    fitted: ViewSet,
    batches: list[NDArray[np.intp]],
    settings: FitSettings,
    mesh: Mesh,
    noise: float,
    wanted: bool,
) -> Tensor:
    """Move once; return misfit and pixels of all ranks' batches, and how many ranks want the state kept behind it."""
    misfit = add_gradients(unknowns, fitted, batches, settings)
    sums = torch.cat([misfit, torch.full_like(misfit[:1], wanted)])
    unknowns.sum_small_gradients(mesh, sums)
    priors, weights = settings.priors.at(unknowns.optimiser.relative_step), None
    in_one_pass = unknowns.optimiser.takes_all_in_one_pass
    if in_one_pass and mesh.angles == 1:
        weights = weights_of_slab(unknowns.object, priors, settings.floor_rad, noise, unknowns.slab)
    else:
        # Ranks of the same rows take their shares of the penalty, and add them up with the frames' gradients.
        add_gradient_of_penalty(
            unknowns.object,
            unknowns.gradients()[0],
            priors,
            settings.floor_rad,
            noise,
            unknowns.slab,
            weight=sums[1],
            share=(mesh.angle, mesh.angles),
        )
    unknowns.sum_object_gradient(mesh, over=None if in_one_pass else sums[1])
    if unknowns.optimiser.waits:
        weight = _weight(unknowns, fitted, mesh)
        uphill = unknowns.uphill(weight)
        way = step_to_the_bottom(unknowns, fitted, batches, uphill, settings.object_step_rad, mesh)
        unknowns.start_optimiser(way, weight)
    unknowns.step(OnePass(sums[1], weights) if in_one_pass else None)
    return sums


def _weight(unknowns: Unknowns, fitted: ViewSet, mesh: Mesh) -> Tensor:
    """Return the factor (z, y, x) on each voxel's gradient that makes up for less light, at most twofold."""
    light = unknowns.exposure(fitted.views)
    mesh.sum_over_angles(light)
    most = unknowns.slab.largest(float(torch.linalg.vector_norm(light, torch.inf)))
    return light.div_(most).add_(_LIGHT_FLOOR).reciprocal_()


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
    for expected, measured in expected_and_measured(unknowns, frames, frames.batches(settings.batch_views, None)):
        misfit = FIDELITIES[settings.fidelity](expected, measured, frames.mask)
        pixels = len(expected) * frames.mask.sum()
        total += torch.stack([misfit, pixels, *amplitude_r_factor(expected, measured, frames.mask)])
        del expected, measured
    mesh.sum(total)
    if total[1] == 0:
        return None, None
    return float(total[0] / total[1]), float(total[2] / total[3])
