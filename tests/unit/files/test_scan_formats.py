"""Formats of scan files: one from another package goes all the way, wrong ones are refused."""

import pytest
from installed_package import installed
from small_scan import hologram_scan

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files import inspect_scan, read_scan, scan_formats, write_scan
from bluesky_multislice.files.scan_formats import GROUP

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
    offer = {"module": "facility_format", "group": GROUP, "points": {"pointer": "facility_format:POINTER"}}
    with installed(tmp_path, monkeypatch, scan_formats, source=FACILITY, **offer):
        yield


def test_a_format_of_another_package_is_read(facility, tmp_path):
    write_scan(tmp_path / "scan.cxi", hologram_scan(angles=4))
    (tmp_path / "scan.pointer").write_text("scan.cxi")
    assert read_scan(tmp_path / "scan.pointer").geometry.views == 4
    assert [scan_format.name for scan_format in scan_formats()] == [
        "pointer",
        "described TIFF or NumPy",
        "NumPy archive",
        "NXtomo",
        "CXI",
    ]


def test_a_format_that_only_reads_is_inspected_by_what_it_reads_or_refuses(facility, tmp_path):
    write_scan(tmp_path / "scan.cxi", hologram_scan(angles=4))
    (tmp_path / "scan.pointer").write_text("scan.cxi")
    found = inspect_scan(tmp_path / "scan.pointer")
    assert found.report("energy").source == "/entry_1/instrument_1/source_1/energy"
    assert (found.frames.views, found.errors) == (4, ())
    (tmp_path / "scan.pointer").write_text("gone.cxi")
    refused = inspect_scan(tmp_path / "scan.pointer")
    assert refused.scan is None
    assert [type(error) for error in refused.errors] == [FramesError]


def test_a_file_of_no_format_is_refused_with_the_formats(tmp_path):
    with pytest.raises(
        FramesError, match=r"formats described TIFF or NumPy, NumPy archive, NXtomo, CXI.*does not exist"
    ):
        read_scan(tmp_path / "absent.cxi")
