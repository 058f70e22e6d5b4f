"""Formats of scan files: one from another package goes all the way, wrong ones are refused."""

import sys

import pytest
from small_scan import hologram_scan

from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.files import read_scan, scan_formats, write_scan

FACILITY = """
from bluesky_multislice.files import ScanFormat, read_scan


def matches(path):
    return path.suffix == ".pointer"


def read(path, values, instrument):
    return read_scan(path.with_name(path.read_text()), values=values, instrument=instrument)


POINTER = ScanFormat("pointer", matches, read)
"""


@pytest.fixture
def facility(tmp_path, monkeypatch):
    """A package is installed that offers a file format of its own."""
    (tmp_path / "facility_format.py").write_text(FACILITY)
    about = tmp_path / "facility-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: facility\nVersion: 1.0\n")
    entry = about / "entry_points.txt"
    entry.write_text("[bluesky_multislice.formats]\npointer = facility_format:POINTER\n")
    monkeypatch.syspath_prepend(tmp_path)
    scan_formats.cache_clear()
    yield entry
    sys.modules.pop("facility_format", None)
    scan_formats.cache_clear()


def test_a_format_of_another_package_is_read(facility, tmp_path):
    write_scan(tmp_path / "scan.cxi", hologram_scan(angles=4))
    (tmp_path / "scan.pointer").write_text("scan.cxi")
    assert read_scan(tmp_path / "scan.pointer").geometry.views == 4
    assert [scan_format.name for scan_format in scan_formats()] == ["pointer", "NXtomo", "CXI"]


@pytest.mark.parametrize(
    ("offered", "rule"),
    [
        ("cxi = bluesky_multislice.files.scan_formats:_FORMATS", "must be a ScanFormat"),
        ("x = math:pi", "must be a ScanFormat"),
        ("a = facility_format:POINTER\nb = facility_format:POINTER", "name of its own"),
    ],
)
def test_an_entry_point_without_a_new_format_is_refused(facility, offered, rule):
    facility.write_text(f"[bluesky_multislice.formats]\n{offered}\n")
    scan_formats.cache_clear()
    with pytest.raises(ScanError, match=rule):
        scan_formats()


def test_a_file_of_no_format_is_refused_with_the_formats(tmp_path):
    with pytest.raises(FramesError, match=r"formats NXtomo, CXI.*does not exist"):
        read_scan(tmp_path / "absent.cxi")
