"""File formats: the interchange file, the result file and preview images."""

from bluesky_multislice.files.preview import preview, write_preview
from bluesky_multislice.files.scan_reader import read_geometry, read_scan
from bluesky_multislice.files.scan_writer import write_scan, write_simulated
from bluesky_multislice.files.stored_frames import StoredFrames
from bluesky_multislice.files.virtual_frames import FrameFile, frame_files, linked_files
from bluesky_multislice.files.volume_file import VolumeFile, read_provenance, read_volume, write_result

__all__ = [
    "FrameFile",
    "StoredFrames",
    "VolumeFile",
    "frame_files",
    "linked_files",
    "preview",
    "read_geometry",
    "read_provenance",
    "read_scan",
    "read_volume",
    "write_preview",
    "write_result",
    "write_scan",
    "write_simulated",
]
