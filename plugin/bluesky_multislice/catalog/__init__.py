"""The catalogue: runs in, reconstructions out."""

from bluesky_multislice.catalog.client import connect
from bluesky_multislice.catalog.scan_resolver import ResolvedScan, resolve_scan

__all__ = ["ResolvedScan", "connect", "resolve_scan"]
