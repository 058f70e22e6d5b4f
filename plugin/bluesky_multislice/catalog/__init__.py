"""The catalogue: runs in, reconstructions out."""

from bluesky_multislice.catalog.client import connect
from bluesky_multislice.catalog.ingest import ingest
from bluesky_multislice.catalog.scan_resolver import ResolvedScan, resolve_scan
from bluesky_multislice.catalog.tiled_writer import PublishedReconstruction, find_reconstructions, publish

__all__ = [
    "PublishedReconstruction",
    "ResolvedScan",
    "connect",
    "find_reconstructions",
    "ingest",
    "publish",
    "resolve_scan",
]
