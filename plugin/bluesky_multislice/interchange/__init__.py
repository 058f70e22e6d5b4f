"""Files: the interchange file, the result file and the job folder."""

from bluesky_multislice.interchange.job_folder import JobFolder, write_json
from bluesky_multislice.interchange.scan_file import read_geometry, read_scan, write_scan
from bluesky_multislice.interchange.virtual_frames import FrameFile

__all__ = ["FrameFile", "JobFolder", "read_geometry", "read_scan", "write_json", "write_scan"]
