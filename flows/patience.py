"""How long a flow waits for Prefect, so that a restart of the server does not cost a finished job its state."""

import logging
import time

from prefect.client.orchestration import get_client

_PATIENCE_S = 3600.0
_PAUSE_S = 5.0


def wait_for_prefect(log: logging.Logger | logging.LoggerAdapter) -> None:
    """Wait until the Prefect server answers; after an hour let Prefect's own client fail."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        with get_client(sync_client=True) as client:
            if (problem := client.api_healthcheck()) is None:
                return
        log.warning("The Prefect server does not answer (%s); asked again in %g s", type(problem).__name__, _PAUSE_S)
        time.sleep(_PAUSE_S)
