"""Files: the interchange file, the result file and the job folder."""

from bluesky_multislice.interchange.job_folder import INTERRUPTED_STATUS, JobFolder, write_json
from bluesky_multislice.interchange.preview import preview, write_preview
from bluesky_multislice.interchange.scan_reader import read_geometry, read_scan
from bluesky_multislice.interchange.scan_writer import write_predicted, write_scan
from bluesky_multislice.interchange.virtual_frames import FrameFile, frame_files
from bluesky_multislice.interchange.volume_file import VolumeFile, read_provenance, read_volume, write_result

__all__ = [
    "INTERRUPTED_STATUS",
    "FrameFile",
    "JobFolder",
    "VolumeFile",
    "frame_files",
    "preview",
    "read_geometry",
    "read_provenance",
    "read_scan",
    "read_volume",
    "write_json",
    "write_predicted",
    "write_preview",
    "write_result",
    "write_scan",
]
