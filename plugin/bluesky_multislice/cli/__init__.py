"""The command ``multislice``: the same verbs as the flow, without Prefect."""

from bluesky_multislice.cli.commands import main

__all__ = ["main"]
