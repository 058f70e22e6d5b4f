"""Waits for servers that do not answer, so that no result is lost while they restart."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect.client.orchestration import get_client

from bluesky_multislice import catalog
from bluesky_multislice.errors import CatalogAwayError, MultisliceError

_T = TypeVar("_T")
_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0


def wait_for_prefect(log: logging.Logger | logging.LoggerAdapter, patience_s: float) -> None:
    """Wait until the Prefect server answers, for a limited time. After that Prefect's client raises its own error."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        with get_client(sync_client=True) as client:
            if (problem := client.api_healthcheck()) is None:
                return
        log.warning("The Prefect server does not answer (%s); next attempt in %g s", type(problem).__name__, _PAUSE_S)
        time.sleep(_PAUSE_S)


def wait_for_tiled(ask: Callable[[], _T], log: logging.Logger | logging.LoggerAdapter, patience_s: float) -> _T:
    """Call Tiled, and repeat the call while the server does not answer.

    Args:
        ask: the call; it can be repeated.
        log: where the waiting is told.
        patience_s: for how long the call is repeated, s.

    Returns:
        What the call returns.

    Raises:
        CatalogAwayError: the server has not answered in this time.
    """
    began, pause_s = time.monotonic(), _PAUSE_S
    while True:
        try:
            return ask()
        except (MultisliceError, httpx.HTTPError, OSError) as error:
            if not catalog.is_away(error):
                raise
            waited_s = time.monotonic() - began
            if waited_s >= patience_s:
                raise CatalogAwayError(
                    f"The Tiled server must answer within {patience_s:g} s (MULTISLICE_PATIENCE_S).",
                    got=f"no answer for {waited_s:.0f} s.",
                    remedy="start the Tiled server; then the reaper runs the flow again by itself.",
                ) from error
        log.warning("The Tiled server does not answer; next attempt in %g s", pause_s)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
