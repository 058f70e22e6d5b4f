"""File formats: the interchange file, the result file and preview images."""

from bluesky_multislice.files.cxi_scan import read_geometry
from bluesky_multislice.files.detector_files import find_dataset, open_detector_file
from bluesky_multislice.files.field_candidates import StoredValue, suggest_places
from bluesky_multislice.files.field_lookup import FieldLookup
from bluesky_multislice.files.file_records import file_record
from bluesky_multislice.files.former_file import (
    check_volumes,
    content_digest,
    former_record,
    link_result,
    read_former,
    write_origin,
)
from bluesky_multislice.files.inspection_picture import write_inspection_picture
from bluesky_multislice.files.mask_file import recipe_mask
from bluesky_multislice.files.preview import preview, write_preview
from bluesky_multislice.files.result_arrays import (
    RESULT_PICTURES,
    RESULT_TABLES,
    VIEW_COLUMNS,
    VIEWS,
    ResultArray,
    result_arrays,
    result_lines,
)
from bluesky_multislice.files.scan_formats import ScanFormat, inspect_scan, read_scan, scan_formats
from bluesky_multislice.files.scan_inspection import (
    FieldReport,
    FrameSample,
    ScanInspection,
    inspect_lookup,
    partial_frames,
    sample_frames,
)
from bluesky_multislice.files.scan_writer import write_scan, write_simulated
from bluesky_multislice.files.starter_instrument import place_text, starter_instrument
from bluesky_multislice.files.stored_frames import StoredFrames, check_mapped, open_frames
from bluesky_multislice.files.virtual_frames import FrameFile, frame_files, linked_files
from bluesky_multislice.files.virtual_sources import SourceCheck
from bluesky_multislice.files.volume_file import VolumeFile, read_provenance, read_volume, write_result

__all__ = [
    "RESULT_PICTURES",
    "RESULT_TABLES",
    "VIEWS",
    "VIEW_COLUMNS",
    "FieldLookup",
    "FieldReport",
    "FrameFile",
    "FrameSample",
    "ResultArray",
    "ScanFormat",
    "ScanInspection",
    "SourceCheck",
    "StoredFrames",
    "StoredValue",
    "VolumeFile",
    "check_mapped",
    "check_volumes",
    "content_digest",
    "file_record",
    "find_dataset",
    "former_record",
    "frame_files",
    "inspect_lookup",
    "inspect_scan",
    "link_result",
    "linked_files",
    "open_detector_file",
    "open_frames",
    "partial_frames",
    "place_text",
    "preview",
    "read_former",
    "read_geometry",
    "read_provenance",
    "read_scan",
    "read_volume",
    "recipe_mask",
    "result_arrays",
    "result_lines",
    "sample_frames",
    "scan_formats",
    "starter_instrument",
    "suggest_places",
    "write_inspection_picture",
    "write_origin",
    "write_preview",
    "write_result",
    "write_scan",
    "write_simulated",
]
