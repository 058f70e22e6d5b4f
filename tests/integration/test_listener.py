"""The listener against a real Tiled server with streaming, a real RunEngine and a real Prefect server."""

import contextvars
import sqlite3
import threading
import time
import uuid
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime

import event_model
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky.preprocessors import run_decorator
from bluesky_tiled_plugins import TiledWriter
from flow_runs import log_of, served
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.flows import EntrypointType
from prefect.settings import PREFECT_API_URL, temporary_settings
from tiled.client import from_uri
from tiled.server import SimpleTiledServer

from bluesky_multislice.demo.processes import free_port
from bluesky_multislice.errors import CatalogError
from bluesky_multislice.listener import Selection, automatic_key, backfill, finished_runs, intake, listen
from bluesky_multislice.recipe import FLOW, Recipe, ServiceSettings, SettingsError
from flows.reconstruct_scan import reconstruct_scan

KEY = "secretofthistest"
LIMIT_S = 40


@pytest.fixture(scope="module")
def deployment(prefect_server):
    return reconstruct_scan.to_deployment(FLOW, entrypoint_type=EntrypointType.MODULE_PATH).apply()


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    with SimpleTiledServer(tmp_path_factory.mktemp("tiled"), api_key=KEY) as server:
        yield server.uri.split("?")[0]


@pytest.fixture
def settings(tiled, tmp_path, monkeypatch):
    """A catalogue of the test's own: a container on the server. A server takes seconds of a core to start."""
    monkeypatch.setenv("TILED_API_KEY", KEY)
    with catalogue(tiled) as client:
        client.create_container(tmp_path.name)
    return ServiceSettings(f"{tiled}/metadata/{tmp_path.name}", tmp_path)


@contextmanager
def catalogue(uri):
    client = from_uri(uri, api_key=KEY)
    try:
        yield client
    finally:
        client.context.close()


def take(uri, *, fail=False, technique="holography", **options):
    """Take a run without any detector and return its uid."""
    with catalogue(uri) as client:
        return scan(client, fail, {"technique": technique, "multislice": options})


def scan(client, fail, metadata):
    engine = RunEngine(context_managers=[])
    engine.subscribe(TiledWriter(client, batch_size=1))
    uids = []
    engine.subscribe(lambda name, start: uids.append(start["uid"]), "start")

    @run_decorator(md=metadata)
    def plan():
        yield from bps.null()
        if fail:
            raise RuntimeError("the shutter stuck")

    if fail:
        with pytest.raises(RuntimeError, match="shutter"):
            engine(plan())
    else:
        engine(plan())
    return uids[0]


@contextmanager
def listening(settings, *, sweep_s=60.0, **options):
    stop = threading.Event()
    context = contextvars.copy_context()  # carries the settings of the test's Prefect server
    options = {"sweep_s": sweep_s, "stop": stop} | options
    thread = threading.Thread(target=lambda: context.run(listen, settings, **options), name="listener")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def flow_runs(uid, recipe=None, *, digest=None):
    keys = [automatic_key(uid, digest or (recipe or Recipe()).digest())]
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
        )


def eventually(condition):
    end = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
    return value


def remembered(settings):
    """The listener's state, read while the listener writes it."""
    path = settings.jobs_root / "listener.db"
    if not path.exists():
        return {"sequence": None, "handed_over": {}}
    with closing(sqlite3.connect(path)) as database:
        try:
            facts = dict(database.execute("SELECT name, value FROM facts"))
            return {
                "sequence": facts.get("sequence"),
                "handed_over": dict(database.execute("SELECT uid, digest FROM runs")),
            }
        except sqlite3.DatabaseError:  # its tables are not made yet, or a test has torn it
            return {"sequence": None, "handed_over": {}}


def test_a_finished_run_starts_its_flow_with_its_recipe(deployment, settings):
    with listening(settings):
        before = take(settings.tiled_uri, auto=True)
        eventually(lambda: flow_runs(before))
        # The first sweep is over and the second a minute away: an event brings this one.
        uid = take(settings.tiled_uri, auto=True, recipe={"epochs": 7})
        (flow_run,) = eventually(lambda: flow_runs(uid, Recipe(epochs=7)))
    assert flow_run.parameters["run_uid"] == uid
    assert Recipe.model_validate(flow_run.parameters["recipe"]) == Recipe(epochs=7)
    assert flow_run.state.is_scheduled()
    assert flow_run.tags == ["automatic"]


def test_runs_that_do_not_ask_are_left_alone(deployment, settings):
    quiet = [
        take(settings.tiled_uri, auto=False),
        take(settings.tiled_uri),
        take(settings.tiled_uri, auto=True, technique="spectroscopy"),
        take(settings.tiled_uri, auto=False, fail=True),
    ]
    asks = take(settings.tiled_uri, auto=True)
    with catalogue(settings.tiled_uri) as client:
        assert asks in dict(finished_runs(client))
        assert quiet[0] not in dict(finished_runs(client))
    with listening(settings):
        quiet.append(take(settings.tiled_uri, auto=False))
        late = take(settings.tiled_uri, auto=True)
        eventually(lambda: set(remembered(settings)["handed_over"]) == {asks, late})
    assert not [flow_run for uid in quiet for flow_run in flow_runs(uid)]


def test_a_run_that_failed_is_handed_over_for_its_error(deployment, settings):
    missed = take(settings.tiled_uri, auto=True, fail=True)
    with catalogue(settings.tiled_uri) as client:
        assert dict(finished_runs(client)) == {missed: None}
    with listening(settings):
        eventually(lambda: flow_runs(missed))
        seen = take(settings.tiled_uri, auto=True, fail=True)
        eventually(lambda: flow_runs(seen))


def test_a_run_without_its_stop_document_waits(deployment, settings):
    with catalogue(settings.tiled_uri) as client:
        write = TiledWriter(client, batch_size=1)
        run = event_model.compose_run(metadata={"technique": "holography", "multislice": {"auto": True}})
        write("start", run.start_doc)
        uid = run.start_doc["uid"]
        with listening(settings, sweep_s=1):
            for _ in range(2):
                later = scan(client, False, {"technique": "holography", "multislice": {"auto": True}})
                eventually(lambda later=later: flow_runs(later))
            assert not flow_runs(uid)
            write("stop", run.compose_stop())
            eventually(lambda: flow_runs(uid))


def test_a_restarted_listener_replays_what_it_missed_and_starts_nothing_twice(deployment, settings):
    with listening(settings):
        first = take(settings.tiled_uri, auto=True)
        eventually(lambda: flow_runs(first))
        before = eventually(lambda: remembered(settings)["sequence"])
    missed = take(settings.tiled_uri, auto=True)
    with listening(settings):
        eventually(lambda: flow_runs(missed))
        eventually(lambda: remembered(settings)["sequence"] > before)
    assert len(flow_runs(first)) == len(flow_runs(missed)) == 1


def test_losing_the_state_starts_nothing_twice(deployment, settings):
    uid = take(settings.tiled_uri, auto=True)
    for _ in range(2):
        with listening(settings):
            eventually(lambda: uid in remembered(settings)["handed_over"])
        (settings.jobs_root / "listener.db").write_text("half a database")
    assert len(flow_runs(uid)) == 1


def test_edited_metadata_repeats_nothing_but_a_new_recipe_counts(deployment, settings):
    with listening(settings):
        uid = take(settings.tiled_uri, auto=True)
        eventually(lambda: flow_runs(uid))
        before = remembered(settings)["sequence"]
        with catalogue(settings.tiled_uri) as client:
            run = client[uid]
            run.update_metadata({"comment": "looks good"})
            eventually(lambda: remembered(settings)["sequence"] > before)
            assert len(flow_runs(uid)) == 1
            run.update_metadata({"start": {"multislice": {"auto": True, "recipe": {"epochs": 3}}}})
        eventually(lambda: flow_runs(uid, Recipe(epochs=3)))


def test_a_recipe_that_was_edited_while_nobody_listened_counts(deployment, settings):
    with listening(settings):
        uid = take(settings.tiled_uri, auto=True)
        eventually(lambda: flow_runs(uid))
    with catalogue(settings.tiled_uri) as client:
        client[uid].update_metadata({"start": {"multislice": {"auto": True, "recipe": {"epochs": 3}}}})
    # Without the number of its last event, nothing is replayed.
    with closing(sqlite3.connect(settings.jobs_root / "listener.db")) as database, database:
        database.execute("DELETE FROM facts WHERE name = 'sequence'")
    with listening(settings):
        eventually(lambda: flow_runs(uid, Recipe(epochs=3)))


@pytest.mark.parametrize("bad", ["bad\nrun", "bad?run#1"])
def test_a_run_that_cannot_be_read_keeps_no_other(deployment, settings, caplog, monkeypatch, bad):
    monkeypatch.setattr(intake, "_PAUSE_S", 1.0)
    request = {"technique": "holography", "multislice": {"auto": True}}
    stop = {"exit_status": "success", "time": time.time()}
    with catalogue(settings.tiled_uri) as client, listening(settings, sweep_s=1):
        first = take(settings.tiled_uri, auto=True)
        # Its node is listed, but cannot be read by its key.
        client.create_container(bad, metadata={"start": {"uid": bad} | request, "stop": stop})
        last = take(settings.tiled_uri, auto=True)
        eventually(lambda: flow_runs(first) and flow_runs(last))
        time.sleep(4)  # Sweeps try it again.
        late = take(settings.tiled_uri, auto=True)
        eventually(lambda: flow_runs(late))
    assert caplog.text.count(f"Run {bad!r} is not handed over and tried again later") == 1


@pytest.mark.parametrize(
    "recipe", [{"epochs": -1}, {"no_such_field": 1}, "thirty epochs", [], 0], ids=lambda recipe: str(recipe)[:20]
)
def test_a_wrong_recipe_is_a_failed_flow_run_and_the_listener_goes_on(deployment, settings, recipe):
    with listening(settings):
        wrong = take(settings.tiled_uri, auto=True, recipe=recipe)
        digest = eventually(lambda: remembered(settings)["handed_over"].get(wrong))
        right = take(settings.tiled_uri, auto=True)
        eventually(lambda: flow_runs(right))
    with get_client(sync_client=True) as client:
        keys = FlowRunFilterIdempotencyKey(any_=[automatic_key(wrong, digest)])
        (flow_run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=keys))
    assert flow_run.state.is_failed()
    assert "RecipeError" in flow_run.state.message
    assert wrong in flow_run.state.message
    assert "Remedy: correct it" in flow_run.state.message
    assert f"RecipeError: {log_of(flow_run.id)}" == flow_run.state.message


def test_the_sweep_finds_what_could_not_be_handed_over(prefect_server, settings, caplog):
    """Without a deployment nothing can start; once it is there the sweep brings the run."""
    with get_client(sync_client=True) as client:
        found = reconstruct_scan.to_deployment(FLOW, entrypoint_type=EntrypointType.MODULE_PATH).apply()
        client.delete_deployment(found)
    with listening(settings, sweep_s=2):
        uid = take(settings.tiled_uri, auto=True)
        eventually(lambda: "next attempt in" in caplog.text)
        assert not flow_runs(uid)
        reconstruct_scan.to_deployment(FLOW, entrypoint_type=EntrypointType.MODULE_PATH).apply()
        eventually(lambda: flow_runs(uid))


def test_the_listener_outlives_a_restart_of_tiled(deployment, tmp_path, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", KEY)
    with SimpleTiledServer(tmp_path / "tiled", api_key=KEY) as server:
        port = int(server.uri.split("?")[0].rsplit(":", 1)[1].split("/")[0])
        settings = ServiceSettings(server.uri.split("?")[0], tmp_path)
        with ExitStack() as stack:
            listener = stack.enter_context(ExitStack())
            listener.enter_context(listening(settings, sweep_s=5))
            first = take(settings.tiled_uri, auto=True)
            eventually(lambda: flow_runs(first))
            server.close()
            stack.enter_context(SimpleTiledServer(tmp_path / "tiled", api_key=KEY, port=port))
            second = take(settings.tiled_uri, auto=True)
            eventually(lambda: flow_runs(second))
            listener.close()
    assert len(flow_runs(first)) == 1


def test_the_listener_outlives_a_restart_of_prefect(settings, tmp_path, caplog):
    port = free_port(0)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        with ExitStack() as listener:
            with served(port, tmp_path):
                reconstruct_scan.to_deployment(FLOW, entrypoint_type=EntrypointType.MODULE_PATH).apply()
                listener.enter_context(listening(settings, sweep_s=2))
                first = take(settings.tiled_uri, auto=True)
                eventually(lambda: flow_runs(first))
            between = take(settings.tiled_uri, auto=True)
            eventually(lambda: "next attempt in" in caplog.text)
            assert between not in remembered(settings)["handed_over"]
            with served(port, tmp_path):
                eventually(lambda: flow_runs(between))
                assert len(flow_runs(first)) == 1


def test_a_wrong_key_ends_the_listener(deployment, settings, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", "another")
    with pytest.raises(CatalogError, match=r"must accept the listener's key.*5 refusals"):
        listen(settings, sweep_s=1)


def test_a_state_that_cannot_be_written_is_refused(deployment, settings, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="must be able to write its state"):
        listen(settings, state=tmp_path / "file" / "listener.db")


def test_without_a_prefect_server_it_says_so(settings, monkeypatch):
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(SettingsError, match="PREFECT_API_URL"):
        listen(settings)


def write_run(client, *, ended_s=None, begun_s=None, key=None, **start):
    """Write a run of the past, as another writer left it; without ``ended_s`` it has no stop document."""
    uid = key or str(uuid.uuid4())
    begun_s = begun_s or ended_s - 60.0
    request = {"technique": "holography", "multislice": {"auto": True}}
    stop = {"stop": {"exit_status": "success", "time": ended_s}} if ended_s else {}
    client.create_container(uid, metadata={"start": {"uid": uid, "time": begun_s} | request | start} | stop)
    return uid


def test_history_is_left_to_a_person_and_old_runs_wait_behind_live_ones(deployment, settings):
    now, hour = time.time(), 3600.0
    with catalogue(settings.tiled_uri) as client:
        history = [write_run(client, ended_s=now - days * 24 * hour, plan_name="tomo") for days in (400, 40, 2)]
        other = write_run(client, ended_s=now - 24 * hour, plan_name="align")
        with listening(settings, sweep_s=1):
            live = take(settings.tiled_uri, auto=True)
            eventually(lambda: flow_runs(live))
            # An edited comment is an event of the run, but asks for nothing.
            client[history[2]].update_metadata({"comment": "looks good"})
            late = write_run(client, ended_s=time.time())
            eventually(lambda: flow_runs(late))
        assert set(remembered(settings)["handed_over"]) == {live, late}
    chosen = Selection(datetime.fromtimestamp(now - 100 * 24 * hour), plan_name="tomo")
    listed = list(backfill(settings, chosen, dry_run=True))
    assert [run.uid for run in listed] == [history[2], history[1]]
    assert {run.outcome for run in listed} == {"would be handed over"}
    assert not any(flow_runs(uid) for uid in (*history, other))
    done = list(backfill(settings, chosen, most_waiting=100))
    assert [run.uid for run in done] == [history[2], history[1]]
    for uid in history[1:]:
        (flow_run,) = flow_runs(uid)
        assert set(flow_run.tags) == {"automatic", "backfill"}
    assert not flow_runs(history[0])
    assert not flow_runs(other)
    with listening(settings, sweep_s=1, since=datetime.fromtimestamp(now - 500 * 24 * hour)):
        eventually(lambda: set(remembered(settings)["handed_over"]) == {*history, other, live, late})
    assert all(len(flow_runs(uid)) == 1 for uid in (*history, other, live, late))


def test_a_run_that_never_ends_is_told_once(deployment, settings, caplog):
    with catalogue(settings.tiled_uri) as client:
        uid = write_run(client, begun_s=time.time() - 300)
        fresh = write_run(client, begun_s=time.time())
        for _ in range(2):
            with listening(settings, sweep_s=1, open_after_h=1 / 60):
                live = take(settings.tiled_uri, auto=True)
                eventually(lambda live=live: flow_runs(live))
                eventually(lambda: flow_runs(uid, digest="no-stop-document"))
        (flow_run,) = flow_runs(uid, digest="no-stop-document")
        assert flow_run.state.is_failed()
        assert "must end with a stop document" in flow_run.state.message
        assert not flow_runs(fresh, digest="no-stop-document")
        assert caplog.text.count(f"none of run '{uid}'") == 1
        with listening(settings, sweep_s=1):
            client[uid].update_metadata({"stop": {"exit_status": "success", "time": time.time()}})
            eventually(lambda: flow_runs(uid))
