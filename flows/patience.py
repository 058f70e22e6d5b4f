"""Waits for the Prefect server, so that the state of a finished job is not lost while the server restarts."""

import logging
import time

from prefect.client.orchestration import get_client

_PATIENCE_S = 3600.0
_PAUSE_S = 5.0


def wait_for_prefect(log: logging.Logger | logging.LoggerAdapter) -> None:
    """Wait until the Prefect server answers, for at most one hour. After that Prefect's client raises its own error."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        with get_client(sync_client=True) as client:
            if (problem := client.api_healthcheck()) is None:
                return
        log.warning("The Prefect server does not answer (%s); next attempt in %g s", type(problem).__name__, _PAUSE_S)
        time.sleep(_PAUSE_S)
