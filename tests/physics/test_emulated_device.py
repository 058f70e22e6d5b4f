"""Whole reconstructions on the emulated device give the results of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import emulated_device
import numpy as np
import pytest
from small_fit_runs import asked_for, difference, marked, run
from small_fits import CASES

pytestmark = [
    pytest.mark.skipif(emulated_device.why_not() is not None, reason=str(emulated_device.why_not())),
    pytest.mark.timeout(900),  # The first waits for the fits of all others.
]
FOLDER = Path(__file__).parent
MESHES = ["2x1", "1x2"]

LONG = {
    "finite-difference-wide",
    "refined angles, cubic",
    "refined angles, fourier",
    "smoothing by frames held back",
    "two halves",
    "point spread",
    "poisson",
    "intensity",
    "no absorption",
    "coarse first",
    "thin first",
    "patterns, recomputed",
    "patterns, checkpoints",
    "patterns without a probe",
    "one angle, wide",
    "one angle, resumed",
    "one angle, projection",
    "one angle, tiled",
    "patterns, projection",
    "patterns, vacuum",
    "holograms of one angle",
    "saturated",
    "smoothness along z",
    "cylinder",
    "waves from checkpoints",
    "recomputed waves",
    "slices as many as planes",
    "polished",
    "cubic",
    "adam",
    "bounds on β/δ",
    "images",
    "refined angles",
    "projection",
    "frames on disk",
    "patterns, tiled",
    "patterns, finite-difference",
    "one angle, adam",
    "one angle, finite-difference",
}
"""Cases that `make test-all` adds."""

ON_TWO_RANKS = ["refined frames", "patterns"]


NOTHING = dict.fromkeys(("angle", "tilt", "distance_magnification", "distance_rotation"), 2e-6)
"""Of what goes forth and back: it moves no pixel by more than some 1e-5 of its size."""


@pytest.fixture(scope="module")
def wanted(request):
    return asked_for(request)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("small-fits")


@pytest.fixture(scope="module")
def on_processor(folder, wanted):
    return run(folder / "processor.npz", "cpu", wanted)[0]


@pytest.fixture(scope="module")
def on_device(folder, wanted):
    return run(folder / "device.npz", "cuda", wanted)


@pytest.fixture(scope="module")
def on_two_devices(folder):
    return run(folder / "devices.npz", "cuda", ON_TWO_RANKS, ranks=2)


def check(found, mesh, expected, case):
    """The result of a case on a mesh equals the result on one CPU."""
    names = [key.rpartition("/")[2] for key in expected if key.startswith(f"{case}/1x1/1/")]
    assert {"volume", "losses"} <= set(names)
    assert expected[f"{case}/1x1/1/volume"].any()
    for name in names:
        got, want = found[f"{case}/{mesh}/1/{name}"], expected[f"{case}/1x1/1/{name}"]
        if not want.any():
            assert not got.any()
            continue
        # Refined quantities: 1e-3 was measured, the same as between two ways of rounding on a CPU.
        bound = {"volume": 2e-5, "probe": 2e-5, "losses": 1e-4}.get(name, 5e-3)
        assert difference(got, want) < bound or np.abs(got - want).max() < NOTHING.get(name, 0), name


@pytest.mark.parametrize("case", marked(CASES, LONG))
def test_a_device_gives_what_a_processor_gives(on_device, on_processor, case):
    found, said = on_device
    assert "failed" not in said[f"{case}/1x1/1"], said[f"{case}/1x1/1"]["failed"]
    assert not said[f"{case}/1x1/1"]["error"], "the host wrote over what was still being copied"
    check(found, "1x1", on_processor, case)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("case", ON_TWO_RANKS)
def test_two_devices_give_what_a_processor_gives(on_two_devices, on_processor, case, mesh):
    found, said = on_two_devices
    assert not said[f"{case}/{mesh}/1"]["error"]
    assert said[f"{case}/{mesh}/1"]["collective"], "what the ranks exchange goes from device to device"
    check(found, mesh, on_processor, case)


def test_the_device_forbids_what_a_gpu_forbids():
    """Its own tests, in a process that has two of them from its beginning."""
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    environment = os.environ | emulated_device.environment(devices=2)
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [*command, str(FOLDER / "emulated_device_rules.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
