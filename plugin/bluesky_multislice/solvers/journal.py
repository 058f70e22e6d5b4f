"""Checkpoints of a job's fits, from which a stopped or killed job resumes."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from bluesky_multislice.parallel import Checkpoints, Mesh
from bluesky_multislice.solvers.progress import FitProgress

REASONS = ("", "stop-request", "SIGUSR1", "SIGTERM")
"""Possible stop reasons; the first means that no stop is requested."""

_INTERVAL_S = 300.0
"""Seconds between two checkpoints if the recipe does not set the interval."""

_SHARE = 0.02
"""Largest fraction of a job's time that checkpoints may block, if the recipe does not set the interval."""

_WORTH_KEEPING_S = 30.0
"""Seconds since the last checkpoint after which the end of a fit is also written, because another fit may follow."""


class Interrupted(Exception):  # noqa: N818, as it is no error
    """A stop of the job was requested, and its checkpoint is written.

    Args:
        reason: one of ``REASONS``.
        epoch: epochs of all fits in the newest checkpoint; 0 without a checkpoint.
    """

    def __init__(self, reason: str, epoch: int) -> None:
        super().__init__(reason, epoch)
        self.reason, self.epoch = reason, epoch


class Journal:
    """Writes checkpoints of a job's fits, and reads those of an earlier run.

    Args:
        checkpoints: storage of the checkpoints.
        mesh: the ranks.
        every: smallest number of epochs between two checkpoints; None: by time.
        stop_reason: returns this rank's reason to stop, empty if there is none.
    """

    def __init__(
        self, checkpoints: Checkpoints, mesh: Mesh, *, every: int | None, stop_reason: Callable[[], str]
    ) -> None:
        self._checkpoints, self._mesh, self._every, self._stop_reason = checkpoints, mesh, every, stop_reason
        self._epochs_done, self._epochs_kept, self._kept_at = 0, 0, time.monotonic()

    def fit(self, name: str) -> "FitJournal":
        """Return the journal of one fit; the name is unique in the job and equal in every run of it."""
        return FitJournal(self, name)

    def raise_if_stop_requested(self) -> None:
        """Stop here if a stop is requested on any rank.

        Raises:
            Interrupted: on all ranks.
        """
        self._stop(REASONS[int(self._mesh.largest(REASONS.index(self._stop_reason())))])

    def load(self, name: str) -> tuple[FitProgress, dict[str, Tensor]] | None:
        """Return progress and tensors of a fit from an earlier run; None without a checkpoint."""
        found = self._checkpoints.load(name)
        if found is None:
            return None
        progress = FitProgress.from_dict(found[0]["course"])
        self._epochs_done += len(progress.history)
        if not progress.ended:
            self._checkpoints.note(resumed={"epoch": self._epochs_done, "ranks": self._mesh.size})
        return progress, found[1]

    def wants_checkpoint(self) -> bool:
        """Whether a stop or a checkpoint is due on this rank between two steps of an epoch."""
        return bool(self._stop_reason()) or (self._every is None and self._due())

    def end_epoch(self, name: str, progress: FitProgress, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write a checkpoint after an epoch if one is due or a stop is requested."""
        self._epochs_done += 1
        self.end_step(name, progress, state)

    def end_step(self, name: str, progress: FitProgress, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write a checkpoint if one is due or a stop is requested; collective call."""
        reason, due = divmod(int(self._mesh.largest(2 * REASONS.index(self._stop_reason()) + self._due())), 2)
        if reason or due:
            self._save(name, progress, state())
        self._stop(REASONS[reason])

    def end(self, name: str, progress: FitProgress, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write the result of a fit."""
        worth = self._every is not None or time.monotonic() - self._kept_at > _WORTH_KEEPING_S
        if self._mesh.largest(worth):
            self._save(name, progress, state())

    def _due(self) -> bool:
        """Whether a checkpoint is due on this rank; never while the last one is still being written."""
        if self._checkpoints.busy:
            return False
        if self._every is not None:
            return self._epochs_done - self._epochs_kept >= self._every
        interval_s = max(_INTERVAL_S, self._checkpoints.blocked_s / _SHARE)
        return time.monotonic() - self._kept_at > interval_s

    def _save(self, name: str, progress: FitProgress, state: Mapping[str, Tensor]) -> None:
        record: dict[str, Any] = {"fit": name, "ended": progress.ended, "epoch": self._epochs_done}
        self._checkpoints.save(record | {"course": progress.as_dict()}, state)
        self._epochs_kept, self._kept_at = self._epochs_done, time.monotonic()

    def _stop(self, reason: str) -> None:
        if reason:
            self._checkpoints.wait()
            # No rank may end the job before rank 0 has moved the checkpoint to its final name.
            self._mesh.largest(0)
            newest = self._checkpoints.newest
            raise Interrupted(reason, newest["epoch"] if newest else 0)


class FitJournal:
    """Journal of one fit."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal, self._name = journal, name

    def load(self) -> tuple[FitProgress, dict[str, Tensor]] | None:
        """Return progress and tensors of an earlier run; None without a checkpoint."""
        return self._journal.load(self._name)

    def wants_checkpoint(self) -> bool:
        """Whether this rank requests a checkpoint between two steps of an epoch."""
        return self._journal.wants_checkpoint()

    def end_epoch(self, progress: FitProgress, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write a checkpoint after an epoch if one is due.

        Raises:
            Interrupted: a stop was requested; the checkpoint is written.
        """
        self._journal.end_epoch(self._name, progress, state)

    def end_step(self, progress: FitProgress, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write a checkpoint between two steps of an epoch if a rank requests it.

        Raises:
            Interrupted: a stop was requested; the checkpoint is written.
        """
        self._journal.end_step(self._name, progress, state)

    def end(self, progress: FitProgress, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write the result of the fit."""
        self._journal.end(self._name, progress, state)
