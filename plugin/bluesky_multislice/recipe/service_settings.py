"""Addresses of services, read from environment variables so that parameters and files contain no keys."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bluesky_multislice.errors import MultisliceError

FLOW = "reconstruct-scan"
DEPLOYMENT = f"{FLOW}/{FLOW}"
"""Name of the Prefect deployment that reconstructs one scan."""
POOL = "multislice"
"""Name of the Prefect work pool whose workers run the flows."""
LIVE_QUEUE, RERUN_QUEUE = "live", "rerun"
"""Names of the pool's queues: for scans from the listener, and for reruns by users."""


class SettingsError(MultisliceError):
    """An environment variable that a service needs is missing or wrong."""


@dataclass(frozen=True)
class ServiceSettings:
    """Addresses and folders of the listener and the flow.

    They do not include the Tiled key: ``catalog.connect`` reads ``TILED_API_KEY``.

    Attributes:
        tiled_uri: address of the Tiled server, or name of a Tiled profile, from ``MULTISLICE_TILED_URI``.
        jobs_root: folder of the job folders, from ``MULTISLICE_JOBS_ROOT``; Tiled must be allowed to read it.
        instrument: instrument file, from ``MULTISLICE_INSTRUMENT``; None: no file.
        site: site profile of the compute machine, from ``MULTISLICE_SITE``; None: this machine.
        tiled_key_block: Prefect Secret block that holds the Tiled key, from ``MULTISLICE_TILED_KEY_BLOCK``; None:
            the key is in ``TILED_API_KEY``.
        patience_s: how long a flow waits for a Tiled or Prefect server that does not answer, s, from
            ``MULTISLICE_PATIENCE_S``.
    """

    tiled_uri: str
    jobs_root: Path
    instrument: Path | None = None
    site: Path | None = None
    tiled_key_block: str | None = None
    patience_s: float = 3600.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ServiceSettings":
        """Read the settings.

        Raises:
            SettingsError: a variable is not set, or is not the number that it must be.
        """
        instrument, site = environment.get("MULTISLICE_INSTRUMENT"), environment.get("MULTISLICE_SITE")
        return cls(
            tiled_uri=_required(environment, "MULTISLICE_TILED_URI"),
            jobs_root=Path(_required(environment, "MULTISLICE_JOBS_ROOT")),
            instrument=Path(instrument) if instrument else None,
            site=Path(site) if site else None,
            tiled_key_block=environment.get("MULTISLICE_TILED_KEY_BLOCK") or None,
            patience_s=_seconds(environment, "MULTISLICE_PATIENCE_S", cls.patience_s),
        )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise SettingsError(
            f"The environment variable {name} must be set.",
            got="no value.",
            remedy="set it for the worker and the listener, as in deploy/systemd.",
        )
    return value


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise SettingsError(
            f"The environment variable {name} must be a number of seconds.",
            got=f"{text!r}.",
            remedy="set it to 0 or more, or remove it.",
        )
    return seconds
