"""Small scans and tool outputs as facilities write them, each with one fault, and the outcome that is right."""

import os
import subprocess
import sys

import pytest
from command_line import COMMAND
from real_services import SHARED

CASES = SHARED / "cases" / "make_cases.py"


@pytest.mark.timeout(600)
def test_every_case_of_a_facility_is_accepted_or_refused_as_is_right(tmp_path):
    if not CASES.is_file():
        pytest.skip("the cases lie beside the project, in ../shared/cases, and are not there")
    done = subprocess.run(
        [sys.executable, str(CASES), "check", str(tmp_path)],
        env=os.environ | {"MULTISLICE": str(COMMAND)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == [], done.stdout
    right, total = lines[-1].split(" of ")
    assert right == total, done.stdout
