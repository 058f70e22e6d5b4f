"""The Tiled catalogue: reads Bluesky runs and publishes reconstructions."""

from bluesky_multislice.catalog.client import connect
from bluesky_multislice.catalog.former_nodes import fetch_result, fetch_result_at
from bluesky_multislice.catalog.ingest import ingest
from bluesky_multislice.catalog.run_documents import RunDocuments, find_run
from bluesky_multislice.catalog.run_inspection import inspect_run
from bluesky_multislice.catalog.scan_resolver import ResolvedScan, resolve_scan
from bluesky_multislice.catalog.tiled_writer import PublishedReconstruction, find_reconstructions, publish

__all__ = [
    "PublishedReconstruction",
    "ResolvedScan",
    "RunDocuments",
    "connect",
    "fetch_result",
    "fetch_result_at",
    "find_reconstructions",
    "find_run",
    "ingest",
    "inspect_run",
    "publish",
    "resolve_scan",
]
