"""The listener's state: a real SQLite file, written by one process and found again by the next."""

import dataclasses
import json
import os
import sqlite3
import time
from contextlib import closing

import pytest

from bluesky_multislice.listener import ListenerState, requested_run
from bluesky_multislice.recipe import Recipe, SettingsError

DAY_S = 86400.0


def requested(uid="run", ended_s=None, **recipe):
    start = {"technique": "holography", "multislice": {"auto": True, "recipe": recipe}}
    stop = {"exit_status": "success", "time": time.time() if ended_s is None else ended_s}
    return requested_run(uid, {"start": start, "stop": stop})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "listener.db"


def test_a_restarted_listener_finds_what_it_knew(path):
    with closing(ListenerState.open(path)) as state:
        first_start_s = state.first_start_s
        state.record_event(7, ended_run="seen")
        state.record_event(8, ended_run=None)
        state.record_handover(requested("done", epochs=3))
        state.record_sweep(first_start_s, 1234.5)
        state.record_told("open")
    with closing(ListenerState.open(path)) as state:
        assert state.first_start_s == first_start_s
        assert state.sequence == 8
        assert state.pending() == ["seen"]
        assert state.knows("done")
        assert not state.knows("seen")
        assert state.has(requested("done", epochs=3))
        assert not state.has(requested("done", epochs=4))
        assert state.swept == (first_start_s, 1234.5)
        assert state.was_told("open")
        state.record_handover(requested("seen"))
        assert state.pending() == []


def test_a_release_with_another_digest_repeats_nothing(path):
    run = requested(epochs=3)
    with closing(ListenerState.open(path)) as state:
        state.record_handover(run)
        assert state.has(dataclasses.replace(run, digest="other"))
        # The same recipe in other words counts as the same, too.
        assert state.has(dataclasses.replace(run, request="other"))
        assert not state.has(dataclasses.replace(run, digest="other", request="other"))


@pytest.mark.parametrize("name", ["listener.json", "listener.db"])
def test_the_json_file_of_an_earlier_release_is_taken_over_once(path, name):
    former = path.with_name(name)
    former.write_text(json.dumps({"sequence": 41, "handed_over": {"run": Recipe(epochs=3).digest()}}))
    written_s = time.time() - 5 * DAY_S
    os.utime(former, (written_s, written_s))
    for _ in range(2):
        with closing(ListenerState.open(path)) as state:
            assert state.sequence == 41
            assert state.has(requested(epochs=3))
            assert not state.has(requested(epochs=4))
            # Runs that ended before the upgrade are not history.
            assert state.first_start_s == pytest.approx(written_s - 30 * DAY_S, abs=2)
            state.confirm(requested(epochs=3))
            state.record_sweep(0.0, time.time())
            other_release = dataclasses.replace(requested(epochs=3), digest="other")
            assert state.has(other_release)
    assert len(list(path.parent.glob("*.taken-over"))) == 1


def test_a_first_start_leaves_history_alone_but_for_differences_of_clocks(path):
    with closing(ListenerState.open(path)) as state:
        assert time.time() - 660 < state.first_start_s < time.time() - 540
        assert state.swept is None


@pytest.mark.parametrize("content", [b"", b"no database at all, but longer than a header " * 40])
def test_a_lost_or_torn_state_keeps_the_first_start(path, content, caplog):
    with closing(ListenerState.open(path)) as state:
        first_start_s = state.first_start_s
        state.record_handover(requested())
    path.write_bytes(content)
    time.sleep(0.01)
    with closing(ListenerState.open(path)) as state:
        assert state.first_start_s == pytest.approx(first_start_s)
        assert not state.knows("run")
    assert bool(list(path.parent.glob("*unreadable*"))) == bool(content) == ("cannot be read" in caplog.text)


def test_a_torn_page_is_noticed(path):
    with closing(ListenerState.open(path)) as state:
        for number in range(40):
            state.record_handover(requested(f"run {number} {'x' * 500}"))
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 5] = os.urandom(4096 * 2)
    path.write_bytes(content)
    with closing(ListenerState.open(path)) as state:
        assert not state.knows(f"run 3 {'x' * 500}")


def test_runs_are_forgotten_after_a_year(path):
    now = time.time()
    with closing(ListenerState.open(path)) as state:
        state.record_handover(requested("old", now - 400 * DAY_S))
        state.record_handover(requested("new", now - 300 * DAY_S))
        state.record_sweep(0.0, now)
        assert not state.knows("old")
        assert state.knows("new")


def test_a_write_that_fails_is_told_once_and_leaves_the_listener_alive(path, caplog):
    ListenerState.open(path).close()
    state = ListenerState(sqlite3.connect(path, timeout=0), path)
    with closing(state), closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for sequence in (1, 2):
            state.record_event(sequence, ended_run="run")
        other.rollback()
        state.record_event(3, ended_run=None)
        assert state.sequence == 3
    assert caplog.text.count("is not saved") == 1


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="must be able to write its state"):
        ListenerState.open(tmp_path / "file" / "listener.db")
