"""Reads rows of an array over HTTP, correctly even if the catalogue declares a wrong shape.

Frames are often declared (row, 1, y, x) although the detector's file contains (row, y, x). Tiled's array client then
silently returns wrong data if it slices more than the first axis or reads chunks. Requests for whole rows, whose bytes
are reshaped here, are correct in both cases.
"""

import time
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlparse

import httpx
import numpy as np
from numpy.typing import NDArray
from tiled.client.array import ArrayClient
from tiled.client.utils import TILED_RETRY_TIMEOUT, handle_error, retry_context, should_retry

from bluesky_multislice.catalog.client import is_busy
from bluesky_multislice.errors import FramesError

_SLAB_BYTES = 64 * 2**20


def fetch_rows(node: ArrayClient, start: int, stop: int, row_shape: tuple[int, ...], part: str = "") -> NDArray:
    """Return rows ``start`` to ``stop`` of an array.

    Args:
        node: the array.
        start: first row.
        stop: index after the last row.
        row_shape: shape of a row, or of its part.
        part: part of each row, such as ``,0:8,16:32``; empty: whole rows. Right only if the declared shape is.

    Returns:
        (row, …) in the declared type.

    Raises:
        FramesError: the server has fewer rows than it declares.
        httpx.HTTPError: the server cannot read them.
    """
    row_bytes = max(1, int(np.prod(row_shape, dtype=np.int64)) * node.dtype.itemsize)
    step = max(1, _SLAB_BYTES // row_bytes)
    slabs = [_fetch_slab(node, at, min(at + step, stop), row_shape, part) for at in range(start, stop, step)]
    return np.concatenate(slabs) if slabs else np.empty((0, *row_shape), node.dtype)


def _fetch_slab(node: ArrayClient, start: int, stop: int, row_shape: tuple[int, ...], part: str) -> NDArray:
    content = b""
    for attempt in retry_context(node.context, on=_retry_after_s):
        with attempt:
            content = _get(node, start, stop, part).content
    values = np.frombuffer(content, node.dtype)
    if values.size != (stop - start) * int(np.prod(row_shape, dtype=np.int64)):
        raise FramesError(
            "The server must have every row that the catalogue declares.",
            got=f"{values.size} values for rows {start} to {stop} of shape {row_shape} in {node.uri}.",
            remedy="check the detector's file: it is shorter than the catalogue declares.",
        )
    return values.reshape(stop - start, *row_shape)


def fetch_once(node: ArrayClient, start: int, stop: int) -> httpx.Response:
    """Request rows of an array, again only while the server is busy or does not answer.

    A server that cannot read the rows is not asked again, so that its answer comes at once.

    Raises:
        httpx.HTTPError: the server cannot read them, or is busy for too long.
    """

    def busy(error: Exception) -> bool | float:
        return (is_busy(error) or not isinstance(error, httpx.HTTPStatusError)) and _retry_after_s(error)

    for attempt in retry_context(node.context, on=busy):
        with attempt:
            # A server that fails on the request drops the connection, so the next request must not reuse it.
            return _get(node, start, stop, Connection="close")
    raise AssertionError  # The last attempt returns or raises.


def _retry_after_s(error: Exception) -> bool | float:
    """Return whether to ask again after an error, or the seconds to wait that the server asks for."""
    if not is_busy(error) or not isinstance(error, httpx.HTTPStatusError):
        return should_retry(error)
    text = error.response.headers.get("Retry-After", "")
    try:
        wait_s = float(text) if text.strip().isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return True
    return min(max(wait_s, 0.0), TILED_RETRY_TIMEOUT)


def _get(node: ArrayClient, start: int, stop: int, part: str = "", **headers: str) -> httpx.Response:
    link = node.item["links"]["full"]
    response = node.context.http_client.get(
        link,
        headers={"Accept": "application/octet-stream", **headers},
        params={**parse_qs(urlparse(link).query), "slice": f"{start}:{stop}{part}"},
    )
    handle_error(response)
    return response
