"""The package's own names: all of them are there, none is imported before it is asked for."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import h5py
import pytest
from small_scan import hologram_scan

import bluesky_multislice
from bluesky_multislice.files import write_scan

OTHER_PACKAGES = {"torch", "numpy", "pydantic", "h5py"}


@pytest.mark.parametrize("name", bluesky_multislice.__all__)
def test_every_name_is_found(name):
    assert getattr(bluesky_multislice, name) is not None


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(bluesky_multislice.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted([*seen, "__version__"]) == sorted(bluesky_multislice.__all__)


def test_import_waits_for_no_other_package():
    code = f"import sys, bluesky_multislice; print(sorted({OTHER_PACKAGES!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="reconstruct_all"):
        bluesky_multislice.reconstruct_all  # noqa: B018


def test_the_version_is_that_of_the_installed_package():
    assert bluesky_multislice.__version__ == version("bluesky-multislice")


def test_public_names_lead_from_a_scan_to_a_result_file(tmp_path):
    from bluesky_multislice import Recipe, join_mesh, make_plan, read_scan, read_volume, reconstruct, write_result

    write_scan(tmp_path / "scan.cxi", hologram_scan(angles=2))
    scan = read_scan(tmp_path / "scan.cxi")
    plan = make_plan(Recipe(epochs=1, device="cpu", ranks=1), scan)
    with join_mesh(plan.device, plan.slabs) as mesh:
        found = reconstruct(scan, plan, mesh)
    write_result(tmp_path / "result.h5", found)
    assert read_volume(tmp_path / "result.h5").delta.shape == found.grid.shape
    with h5py.File(tmp_path / "result.h5") as file:
        assert len(file["history/loss"]) == 1
