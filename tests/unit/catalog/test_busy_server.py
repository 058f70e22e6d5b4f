"""A Tiled server that is busy, or drops connections, for a while."""

import threading
import time
from contextlib import contextmanager
from email.utils import formatdate

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.testing import assert_array_equal
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.mapping import MapAdapter
from tiled.client import from_uri
from tiled.config import Authentication
from tiled.server.app import build_app

from bluesky_multislice.catalog.frame_sources import TiledFrames
from bluesky_multislice.catalog.tiled_rows import fetch_once
from bluesky_multislice.errors import FramesError

FRAMES = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)


class Busy:
    """ASGI middleware that answers the first requests for frames with faults, one fault per request.

    A fault is a status with headers, or None: the connection ends in the middle of the answer.
    """

    def __init__(self, app):
        self.app, self.faults, self.asked = app, [], []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or "/array/full" not in scope["path"]:
            await self.app(scope, receive, send)
            return
        self.asked.append(time.monotonic())
        if not self.faults:
            await self.app(scope, receive, send)
            return
        fault = self.faults.pop(0)
        status, headers = (200, {"Content-Length": "120"}) if fault is None else fault
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": b"busy", "more_body": fault is None})
        if fault is None:
            raise ConnectionResetError


@contextmanager
def served(app):
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def busy():
    return Busy(
        build_app(
            MapAdapter({"frames": ArrayAdapter.from_array(FRAMES)}),
            authentication=Authentication(allow_anonymous_access=True),
        )
    )


@pytest.fixture(scope="module")
def node(busy):
    with served(busy) as address:
        client = from_uri(f"{address}/api/v1/")
        yield client["frames"]
        client.context.close()


@pytest.fixture(autouse=True)
def attempts(monkeypatch):
    """As many attempts as outside of tests, where conftest allows two."""
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 10)


FAULTS = [
    [(503, {"Retry-After": "0"})],
    [(503, {"Retry-After": "0"}), (429, {"Retry-After": "0"}), (502, {})],
    [(429, {})],
    [(503, {"Retry-After": formatdate(time.time() - 60, usegmt=True)})],
    [(503, {"Retry-After": "soon"})],
    [None, (504, {"Retry-After": "0"})],
]


@pytest.mark.parametrize("faults", FAULTS)
def test_a_busy_server_is_asked_again(busy, node, faults):
    for ask in (lambda: TiledFrames(node, 3)[0:2], lambda: np.frombuffer(fetch_once(node, 0, 2).content, np.uint16)):
        busy.faults = list(faults)
        assert_array_equal(ask().reshape(2, 4, 5), FRAMES[:2])
        assert not busy.faults


def test_the_wait_that_the_server_asks_for_is_kept(busy, node):
    busy.asked.clear()
    busy.faults = [(503, {"Retry-After": "1"})]
    fetch_once(node, 0, 1)
    assert np.diff(busy.asked) >= 0.9


def test_a_server_that_cannot_read_is_not_asked_again(busy, node):
    busy.asked.clear()
    busy.faults = [(500, {})]
    with pytest.raises(httpx.HTTPStatusError):
        fetch_once(node, 0, 1)
    assert len(busy.asked) == 1


def test_a_server_that_stays_busy_is_not_called_damaged(busy, node, monkeypatch):
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 2)
    busy.faults = [(503, {"Retry-After": "0"})] * 2
    with pytest.raises(FramesError, match=r"503.*less busy"):
        TiledFrames(node, 3)[0:1]


def test_only_the_asked_part_of_frames_is_sent(busy, node):
    """The first part is compared with the whole frame: catalogues may declare another shape than the file's."""
    source = TiledFrames(node, 3)
    assert_array_equal(source.read_part(slice(1, 3), slice(1, 4), slice(2, 5)), FRAMES[1:3, 1:4, 2:5])
    busy.asked.clear()
    assert_array_equal(source.read_part(slice(0, 3), slice(0, 2), slice(0, 5)), FRAMES[:, :2])
    assert len(busy.asked) == 1
