"""What a job keeps of its fits, so that it can be stopped, or killed, and go on."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from bluesky_multislice.parallel import Checkpoints, Mesh
from bluesky_multislice.solvers.course import Course

REASONS = ("", "stop-request", "SIGUSR1", "SIGTERM")
"""What asks a job to stop; nothing does, first."""

_INTERVAL_S = 300.0
"""Seconds between two checkpoints where the recipe does not say how often."""

_SHARE = 0.02
"""Most of a job's time that beginning checkpoints may take, where the recipe does not say how often."""

_WORTH_KEEPING_S = 30.0
"""Seconds since the last checkpoint after which the end of a fit is kept, too: others may follow it."""


class Interrupted(Exception):  # noqa: N818, as it is no error
    """A job was asked to stop, and has kept what it needs to go on.

    Args:
        reason: one of ``REASONS``.
        epoch: epochs done of all fits, of the newest checkpoint; 0 where there is none.
    """

    def __init__(self, reason: str, epoch: int) -> None:
        super().__init__(reason, epoch)
        self.reason, self.epoch = reason, epoch


class Journal:
    """Writes the state of a job's fits now and then, and knows that of an earlier run.

    Args:
        checkpoints: where it is kept.
        mesh: the ranks.
        every: least epochs between two checkpoints; None goes by time.
        asked: tells this rank's reason to stop, empty where it has none.
    """

    def __init__(self, checkpoints: Checkpoints, mesh: Mesh, *, every: int | None, asked: Callable[[], str]) -> None:
        self._checkpoints, self._mesh, self._every, self._asked = checkpoints, mesh, every, asked
        self._epochs_done, self._epochs_kept, self._kept_at = 0, 0, time.monotonic()

    def fit(self, name: str) -> "FitJournal":
        """Return the part of one fit; its name is its own among those of the job, and the same in every run."""
        return FitJournal(self, name)

    def look(self) -> None:
        """Stop here if a rank is asked to.

        Raises:
            Interrupted: on all ranks.
        """
        self._stop(REASONS[int(self._mesh.largest(REASONS.index(self._asked())))])

    def load(self, name: str) -> tuple[Course, dict[str, Tensor]] | None:
        """Return what an earlier run kept of a fit."""
        found = self._checkpoints.load(name)
        if found is None:
            return None
        course = Course.from_dict(found[0]["course"])
        self._epochs_done += len(course.history)
        if not course.ended:
            self._checkpoints.note(resumed={"epoch": self._epochs_done, "ranks": self._mesh.size})
        return course, found[1]

    def wants_the_state(self) -> bool:
        """Whether this rank is asked to stop, or finds it time, between two steps of an epoch."""
        return bool(self._asked()) or (self._every is None and self._due())

    def end_epoch(self, name: str, course: Course, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep the state of a fit after an epoch, when it is time or the job is asked to stop."""
        self._epochs_done += 1
        self.end_step(name, course, state)

    def end_step(self, name: str, course: Course, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep the state of a fit, when it is time or the job is asked to stop; every rank calls it."""
        reason, due = divmod(int(self._mesh.largest(2 * REASONS.index(self._asked()) + self._due())), 2)
        if reason or due:
            self._keep(name, course, state())
        self._stop(REASONS[reason])

    def end(self, name: str, course: Course, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep what a fit has found."""
        worth = self._every is not None or time.monotonic() - self._kept_at > _WORTH_KEEPING_S
        if self._mesh.largest(worth):
            self._keep(name, course, state())

    def _due(self) -> bool:
        """Whether this rank finds it time; while the last one is still written it is not."""
        if self._checkpoints.busy:
            return False
        if self._every is not None:
            return self._epochs_done - self._epochs_kept >= self._every
        interval_s = max(_INTERVAL_S, self._checkpoints.blocked_s / _SHARE)
        return time.monotonic() - self._kept_at > interval_s

    def _keep(self, name: str, course: Course, state: Mapping[str, Tensor]) -> None:
        record: dict[str, Any] = {"fit": name, "ended": course.ended, "epoch": self._epochs_done}
        self._checkpoints.save(record | {"course": course.as_dict()}, state)
        self._epochs_kept, self._kept_at = self._epochs_done, time.monotonic()

    def _stop(self, reason: str) -> None:
        if reason:
            self._checkpoints.wait()
            # No rank may end the job before the first one has given the checkpoint its name.
            self._mesh.largest(0)
            newest = self._checkpoints.newest
            raise Interrupted(reason, newest["epoch"] if newest else 0)


class FitJournal:
    """What is kept of one fit."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal, self._name = journal, name

    def load(self) -> tuple[Course, dict[str, Tensor]] | None:
        """Return how far an earlier run came, and the tensors that it kept; None where there is none."""
        return self._journal.load(self._name)

    def wants_the_state(self) -> bool:
        """Whether this rank wants the state kept between two steps of an epoch."""
        return self._journal.wants_the_state()

    def end_epoch(self, course: Course, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep the state after an epoch, when it is time.

        Raises:
            Interrupted: the job was asked to stop; the state is kept.
        """
        self._journal.end_epoch(self._name, course, state)

    def end_step(self, course: Course, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep the state between two steps of an epoch, where a rank wants it.

        Raises:
            Interrupted: the job was asked to stop; the state is kept.
        """
        self._journal.end_step(self._name, course, state)

    def end(self, course: Course, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep what the fit has found."""
        self._journal.end(self._name, course, state)
