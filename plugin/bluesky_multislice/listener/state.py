"""The listener's persistent state, an SQLite database, and the time from which on the listener takes runs."""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bluesky_multislice.jobs import write_json
from bluesky_multislice.listener.former_state import FormerState, read_former_state
from bluesky_multislice.listener.wanted import RequestedRun
from bluesky_multislice.recipe import SettingsError

_log = logging.getLogger(__name__)
_VERSION = 1
_CLOCK_MARGIN_S = 600.0
"""Largest difference between the clocks of the beamline and of the listener at the first start, s."""
_REMEMBERED_S = 365 * 86400.0
"""How long after its end a run is remembered, s: the state does not grow for ever."""
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value REAL);
CREATE TABLE IF NOT EXISTS runs (uid TEXT PRIMARY KEY, digest TEXT NOT NULL, request TEXT, ended REAL NOT NULL);
CREATE TABLE IF NOT EXISTS pending (uid TEXT PRIMARY KEY, added REAL NOT NULL);
CREATE TABLE IF NOT EXISTS told (uid TEXT PRIMARY KEY, added REAL NOT NULL);
"""


class ListenerState:
    """What the listener remembers. Use ``open``; the object belongs to the thread that made it.

    Its loss is harmless: the sweep finds every run again, and Prefect recognises runs that it already has. The time of
    the first start is also in a file of its own, so that the loss does not make history out of runs that wait.

    A failure to write is told and otherwise ignored: the sweep makes up for what the state lacks.

    Args:
        database: connection to the database.
        path: its file.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database, self._path = database, path
        self._saved = True
        self._confirmed: list[RequestedRun] = []

    @classmethod
    def open(cls, path: Path) -> "ListenerState":
        """Open the database, or make a new one. The JSON file of an earlier release is taken over.

        A file that is no readable database is set aside under another name.

        Raises:
            SettingsError: the folder or the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            former = read_former_state(path)
            state = cls(_connect(path), path)
            if former is not None:
                state._take_over(former)
            state._set_first_start(former)
            if former is not None:
                former.set_aside()
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(
                "The listener must be able to write its state.",
                got=f"{type(error).__name__}: {error}, for {path}.",
                remedy="correct the owner of MULTISLICE_JOBS_ROOT or make room there, or give another file by --state.",
            ) from error
        return state

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @property
    def sequence(self) -> int | None:
        """Number of the last event that was recorded; None before the first one."""
        value = self._fact("sequence")
        return None if value is None else int(value)

    @property
    def first_start_s(self) -> float:
        """Time from which on runs are taken if nobody sets another, s since 1970: the listener's first start."""
        return self._fact("first_start") or 0.0

    @property
    def swept(self) -> tuple[float, float] | None:
        """The period of which every run is known, handed over or pending, s since 1970; None before a first sweep."""
        begin, end = self._fact("swept_since"), self._fact("swept_until")
        return None if begin is None or end is None else (begin, end)

    def knows(self, uid: str) -> bool:
        """Return whether a run was handed over."""
        return self._row("SELECT 1 FROM runs WHERE uid = ?", uid) is not None

    def has(self, run: RequestedRun) -> bool:
        """Return whether a run was handed over with this recipe.

        The recipe is the same if its text in the start document is the same, whatever release of this package
        computed the digest, or if the digest is the same.
        """
        row = self._row("SELECT digest, request FROM runs WHERE uid = ?", run.uid)
        return row is not None and (row[0] == run.digest or row[1] == run.request)

    def pending(self) -> list[str]:
        """Return the runs that were seen and are not handed over yet, the newest first."""
        return [uid for (uid,) in self._database.execute("SELECT uid FROM pending ORDER BY added DESC")]

    def record_event(self, sequence: int, *, ended_run: str | None) -> None:
        """Record an event as received, and the run that it says to have ended as pending."""
        with self._writing() as execute:
            execute("INSERT OR REPLACE INTO facts VALUES ('sequence', ?)", sequence)
            if ended_run is not None:
                execute("INSERT OR REPLACE INTO pending VALUES (?, ?)", ended_run, time.time())

    def record_handover(self, run: RequestedRun) -> None:
        """Record that a run was handed over."""
        with self._writing() as execute:
            ended = time.time() if run.ended_s is None else run.ended_s
            execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", run.uid, run.digest, run.request, ended)
            execute("DELETE FROM pending WHERE uid = ?", run.uid)

    def record_pending(self, uid: str) -> None:
        """Record that a run could not be handed over."""
        with self._writing() as execute:
            execute("INSERT OR IGNORE INTO pending VALUES (?, ?)", uid, time.time())

    def confirm(self, run: RequestedRun) -> None:
        """Record that a run needs nothing more, because it was handed over with this recipe.

        What is new about it is written with the end of the sweep: a sweep may confirm thousands of runs.
        """
        if self._row("SELECT request FROM runs WHERE uid = ?", run.uid) != (run.request,):
            self._confirmed.append(run)
        self.drop_pending(run.uid)

    def drop_pending(self, uid: str) -> None:
        """Record that a run needs nothing."""
        if self._row("SELECT 1 FROM pending WHERE uid = ?", uid) is None:
            return
        with self._writing() as execute:
            execute("DELETE FROM pending WHERE uid = ?", uid)

    def record_sweep(self, since_s: float, until_s: float) -> None:
        """Record that every run of a period is known, and forget what is older than a year."""
        with self._writing() as execute:
            for run in self._confirmed:
                execute("UPDATE runs SET digest = ?, request = ? WHERE uid = ?", run.digest, run.request, run.uid)
            self._confirmed.clear()
            for name, value in (("swept_since", since_s), ("swept_until", until_s)):
                execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)
            oldest = time.time() - _REMEMBERED_S
            execute("DELETE FROM runs WHERE ended < ?", oldest)
            for table in ("pending", "told"):
                execute(f"DELETE FROM {table} WHERE added < ?", oldest)

    def was_told(self, uid: str) -> bool:
        """Return whether it was told that a run has no stop document."""
        return self._row("SELECT 1 FROM told WHERE uid = ?", uid) is not None

    def record_told(self, uid: str) -> None:
        """Record that it was told that a run has no stop document."""
        with self._writing() as execute:
            execute("INSERT OR REPLACE INTO told VALUES (?, ?)", uid, time.time())

    def _take_over(self, former: FormerState) -> None:
        with self._database:
            rows = ((uid, digest, None, former.written_s) for uid, digest in former.handed_over.items())
            self._database.executemany("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?)", rows)
            self._database.execute("INSERT OR IGNORE INTO facts VALUES ('sequence', ?)", (former.sequence,))
        _log.info("Took over %d runs from the state of an earlier release", len(former.handed_over))

    def _set_first_start(self, former: FormerState | None) -> None:
        """Take the first start from its own file, from the state of an earlier release, or from the clock."""
        if self._fact("first_start") is not None:
            return
        record = self._path.with_suffix(".first-start.json")
        begin = _read_time(record)
        if begin is None:
            begin = time.time() - _CLOCK_MARGIN_S if former is None else former.oldest_s
            write_json(record, {"first_start": datetime.fromtimestamp(begin, UTC).isoformat()})
        with self._database:
            self._database.execute("INSERT INTO facts VALUES ('first_start', ?)", (begin,))

    def _fact(self, name: str) -> float | None:
        row = self._row("SELECT value FROM facts WHERE name = ?", name)
        return None if row is None else row[0]

    def _row(self, query: str, value: str) -> Sequence[Any] | None:
        return self._database.execute(query, (value,)).fetchone()

    @contextmanager
    def _writing(self) -> Iterator[Callable[..., object]]:
        """Write all statements of a block, or none; tell the first of several failures."""
        try:
            with self._database:
                yield lambda statement, *values: self._database.execute(statement, values)
        except (sqlite3.Error, UnicodeError) as error:
            if self._saved:
                _log.warning("The listener's state is not saved: %s", error)
            self._saved = False
        else:
            self._saved = True


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _opened(path)
    except sqlite3.OperationalError:
        raise  # it cannot be written now, which says nothing about its content
    except sqlite3.DatabaseError as error:
        aside = path.with_name(f"{path.name}.unreadable-{int(time.time())}")
        path.rename(aside)
        _log.warning(
            "Starting with an empty state, because %s cannot be read (%s); it is kept as %s", path, error, aside
        )
        return _opened(path)


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10)
    try:
        _check(database)
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if answer != "ok" or version not in (0, _VERSION):
        raise sqlite3.DatabaseError(answer if answer != "ok" else f"version {version}, not {_VERSION}")
    database.executescript(_TABLES)
    with database:
        database.execute(f"PRAGMA user_version = {_VERSION}")
        database.execute("INSERT OR REPLACE INTO facts VALUES ('opened', ?)", (time.time(),))


def _read_time(path: Path) -> float | None:
    try:
        return datetime.fromisoformat(json.loads(path.read_text())["first_start"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None
