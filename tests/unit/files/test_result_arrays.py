"""Arrays of a result: one list, which another package may extend, for the file and the reference page."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from installed_package import installed
from small_scan import hologram_scan

from bluesky_multislice.files import result_arrays, result_lines, write_result
from bluesky_multislice.files.result_arrays import GROUP
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLE = DOCS / "how-to" / "add-a-published-array.md"


@pytest.fixture
def facility(tmp_path, monkeypatch):
    """A package is installed that offers the array of the documentation."""
    (python,) = re.findall(r"```python\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    (point,) = re.findall(r'^projection = "(.*)"$', EXAMPLE.read_text(), re.MULTILINE)
    points = {"module": "facility_arrays", "group": GROUP, "points": {"projection": point}}
    with installed(tmp_path, monkeypatch, result_arrays, source=python, **points):
        yield


def test_the_reference_page_shows_the_list():
    lines = (DOCS / "reference" / "result-file.md").read_text().splitlines()
    start = lines.index("| name | axes | unit | meaning |")
    expected = list(result_lines())
    assert lines[start : start + len(expected)] == expected


def test_an_array_of_another_package_is_in_the_file_and_on_the_page(facility, tmp_path):
    scan = hologram_scan(angles=2)
    plan = make_plan(Recipe(epochs=1, ranks=1, device="cpu", held_back_every=0), scan)
    with join_mesh(plan.device, plan.slabs) as mesh:
        result = reconstruct(scan, plan, mesh)
    write_result(tmp_path / "volume.h5", result)
    with h5py.File(tmp_path / "volume.h5") as file:
        expected = file["delta"][()].sum(0) * file["delta"].attrs["voxel_size_m"][0]
        np.testing.assert_allclose(file["projection"][()], expected, rtol=1e-5, atol=1e-20)
        assert file["projection"].attrs["units"] == "m"
    assert [line for line in result_lines() if line.startswith("| `projection` | (y, x) | m |")]
