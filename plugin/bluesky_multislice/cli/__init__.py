"""The command ``multislice``: reconstruction without Prefect, and the commands that run the services."""

from bluesky_multislice.cli.commands import main

__all__ = ["main"]
