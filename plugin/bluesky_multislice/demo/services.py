"""Runs the services on one machine as real processes: Tiled, Prefect server, process worker, listener and reaper."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import yaml
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from bluesky_multislice.demo.processes import Service, free_port
from bluesky_multislice.recipe import POOL
from flows.deploy import deploy

_HOST = "127.0.0.1"
_MAX_JOBS = 2


@dataclass(frozen=True)
class Services:
    """Addresses and folders of the running services.

    Attributes:
        tiled_uri: address of the Tiled server.
        api_key: API key of the Tiled server, new for each start.
        prefect_uri: address of the Prefect server and its UI.
        detector: folder to which the detector writes.
        jobs_root: parent folder of the job folders.
        running: the processes.
    """

    tiled_uri: str
    api_key: str
    prefect_uri: str
    detector: Path
    jobs_root: Path
    running: tuple[Service, ...]

    @property
    def tiled_page(self) -> str:
        """Address of Tiled's web UI, including the API key."""
        return f"{self.tiled_uri}/ui/?api_key={self.api_key}"

    def check(self) -> None:
        """Raise ServiceError if a service has ended."""
        for service in self.running:
            service.check()


@contextmanager
def serve(
    out: Path,
    *,
    on_ready: Callable[[str], None],
    meanwhile: Callable[[], None] = lambda: None,
    readable: Sequence[Path] = (),
) -> Iterator[Services]:
    """Start the services. On exit, end them in reverse order.

    Args:
        out: folder for catalogue, databases, frames, jobs and logs.
        on_ready: called with the name of each service after it has started.
        meanwhile: called while the servers start.
        readable: additional folders whose files Tiled may read.

    Raises:
        ServiceError: a service does not start.
    """
    folders = _make_folders(out)
    api_key = secrets.token_hex(16)
    tiled_uri, prefect_uri = (f"http://{_HOST}:{free_port(port)}" for port in (8000, 4200))
    running: list[Service] = []
    with ExitStack() as stack:
        # Prefect's runner stores flow code under a fixed name in TMPDIR, which can conflict with another user's.
        temporary = stack.enter_context(TemporaryDirectory(prefix="multislice-", ignore_cleanup_errors=True))
        environment = _environment(api_key, tiled_uri, prefect_uri, folders) | {"TMPDIR": temporary}

        def start(name: str, *command: str) -> Service:
            service = Service.start(name, command, environment, folders["logs"])
            stack.callback(service.stop)
            running.append(service)
            return service

        stack.enter_context(_prefect_settings(prefect_uri, folders["prefect"]))
        prefect = start("prefect-server", *_prefect("server", "start", *_address(prefect_uri)))
        tiled = start(
            "tiled-server", *_tiled("serve", "config", str(_tiled_config(folders, readable)), *_address(tiled_uri))
        )
        meanwhile()
        tiled.wait_until(lambda: _answers(f"{tiled_uri}/healthz"))
        on_ready("Tiled")
        prefect.wait_until(lambda: _answers(f"{prefect_uri}/api/health"))
        on_ready("Prefect server")
        deploy(jobs=_MAX_JOBS)
        on_ready("deployment")
        start("worker", *_prefect("worker", "start", "--pool", POOL, "--type", "process", "--limit", str(_MAX_JOBS)))
        listener = start("listener", *_multislice("listen"))
        listener.wait_until(lambda: "Listening" in listener.log.read_text(errors="replace"))
        on_ready("listener")
        start("reaper", *_multislice("reap", "--every", "60"))
        yield Services(tiled_uri, api_key, prefect_uri, folders["detector"], folders["jobs"], tuple(running))


def _make_folders(out: Path) -> dict[str, Path]:
    folders = {name: out / name for name in ("tiled", "prefect", "logs", "detector", "jobs")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return folders


@contextmanager
def _prefect_settings(uri: str, home: Path) -> Iterator[None]:
    with temporary_settings(updates={PREFECT_API_URL: f"{uri}/api", PREFECT_HOME: home}):
        yield


def _environment(api_key: str, tiled_uri: str, prefect_uri: str, folders: dict[str, Path]) -> dict[str, str]:
    """Return the environment of the services, without the user's own Prefect and Tiled settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "TILED_"))}
    return inherited | {
        "DO_NOT_TRACK": "1",
        "MULTISLICE_JOBS_ROOT": str(folders["jobs"]),
        "MULTISLICE_TILED_URI": tiled_uri,
        "PREFECT_API_URL": f"{prefect_uri}/api",
        "PREFECT_HOME": str(folders["prefect"]),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONUNBUFFERED": "1",
        "TILED_API_KEY": api_key,
        "TILED_SINGLE_USER_API_KEY": api_key,
    }


def _tiled_config(folders: dict[str, Path], readable: Sequence[Path]) -> Path:
    path = folders["tiled"] / "config.yml"
    storage = [f"file://localhost{folders['tiled']}/data", f"duckdb:///{folders['tiled']}/tables.duckdb"]
    catalogue = {
        "uri": f"sqlite:///{folders['tiled']}/catalog.db",
        "init_if_not_exists": True,
        "writable_storage": storage,
        "readable_storage": [str(folder) for folder in (folders["detector"], folders["jobs"], *readable)],
    }
    config = {
        "trees": [{"path": "/", "tree": "catalog", "args": catalogue}],
        "streaming_cache": {"uri": "memory"},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def _prefect(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def _multislice(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("multislice")), *arguments]


def _tiled(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tiled", *arguments]


def _address(uri: str) -> list[str]:
    return ["--host", _HOST, "--port", uri.rpartition(":")[2]]


def _answers(uri: str) -> bool:
    try:
        return httpx.get(uri, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
