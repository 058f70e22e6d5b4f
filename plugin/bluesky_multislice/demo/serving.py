"""Runs the services until Ctrl-C, to try them interactively."""

import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bluesky_multislice.demo.services import Services, serve


def serve_until_interrupted(out: Path, readable: Sequence[Path]) -> None:
    """Run Tiled, Prefect, a worker and the listener on this machine until Ctrl-C.

    Args:
        out: folder for catalogue, databases, jobs and logs; existing content is reused.
        readable: folders whose files Tiled may read.

    Raises:
        ServiceError: a service does not start, or ends unexpectedly.
    """
    logging.getLogger().setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    folders = [folder.resolve() for folder in readable]
    with serve(out.absolute(), on_ready=lambda name: console.print(f"{name} is up"), readable=folders) as services:
        console.print("To use the services in another terminal:")
        console.print(
            f"export MULTISLICE_TILED_URI={services.tiled_uri} TILED_API_KEY={services.api_key}", soft_wrap=True
        )
        keep_serving_until_interrupted(console, services)


def keep_serving_until_interrupted(console: Console, services: Services) -> None:
    """Print the addresses of the web pages and wait for Ctrl-C.

    Raises:
        ServiceError: a service ends unexpectedly.
    """
    console.print(f"Prefect: {services.prefect_uri} (no login)", soft_wrap=True)
    console.print(f"Tiled, with login: {services.tiled_page}", soft_wrap=True)
    console.print("Ctrl-C ends the services.")
    try:
        while True:
            services.check()
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("Ending the services.")
