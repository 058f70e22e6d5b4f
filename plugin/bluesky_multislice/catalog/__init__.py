"""The Tiled catalogue: reads Bluesky runs and publishes reconstructions.

Names are imported on first use: the listener only connects, and needs none of the packages that read scans.
"""

from typing import TYPE_CHECKING

from bluesky_multislice.lazy_names import lazy_names

if TYPE_CHECKING:
    from bluesky_multislice.catalog.client import (
        PUBLISHING_SCOPES,
        STREAM_SCOPES,
        answers,
        check_scopes,
        connect,
        is_away,
        missing_scopes,
        refuses_key,
    )
    from bluesky_multislice.catalog.former_nodes import fetch_result, fetch_result_at
    from bluesky_multislice.catalog.run_documents import RunDocuments, find_run
    from bluesky_multislice.catalog.run_inspection import inspect_run
    from bluesky_multislice.catalog.scan_ingest import ingest
    from bluesky_multislice.catalog.scan_resolver import ResolvedScan, resolve_scan
    from bluesky_multislice.catalog.tiled_writer import PublishedReconstruction, find_reconstructions, publish

__all__ = [
    "PUBLISHING_SCOPES",
    "STREAM_SCOPES",
    "PublishedReconstruction",
    "ResolvedScan",
    "RunDocuments",
    "answers",
    "check_scopes",
    "connect",
    "fetch_result",
    "fetch_result_at",
    "find_reconstructions",
    "find_run",
    "ingest",
    "inspect_run",
    "is_away",
    "missing_scopes",
    "publish",
    "refuses_key",
    "resolve_scan",
]

__getattr__ = lazy_names(
    __name__,
    {
        "PUBLISHING_SCOPES": "client",
        "STREAM_SCOPES": "client",
        "PublishedReconstruction": "tiled_writer",
        "ResolvedScan": "scan_resolver",
        "RunDocuments": "run_documents",
        "answers": "client",
        "check_scopes": "client",
        "connect": "client",
        "fetch_result": "former_nodes",
        "fetch_result_at": "former_nodes",
        "find_reconstructions": "tiled_writer",
        "find_run": "run_documents",
        "ingest": "scan_ingest",
        "inspect_run": "run_inspection",
        "is_away": "client",
        "missing_scopes": "client",
        "publish": "tiled_writer",
        "refuses_key": "client",
        "resolve_scan": "scan_resolver",
    },
)
