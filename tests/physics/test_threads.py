"""A fit gives the same volume for any number of threads and ranks."""

import pytest
from small_fit_runs import asked_for, difference, marked, run

pytestmark = pytest.mark.timeout(900)  # The first waits for the fits of all others.

THREADS, EPOCHS = (1, 2, 3), 5
MESHES = ["1x1", "2x1", "1x2"]
CASES = [
    "holograms",
    "slices as many as planes",
    "tiled-multislice",
    "finite-difference",
    "finite-difference-wide",
    "projection",
    "holograms of one angle",
    "patterns",
    "patterns, tiled",
    "patterns, projection",
    "patterns, finite-difference",
    "patterns of one angle",
    "one angle, tiled",
    "one angle, projection",
    "one angle, finite-difference",
    "one angle, wide",
]
"""Whole planes and windows, one and several angles, every propagation, as many slices as planes and fewer."""

LONG = set(CASES) - {"slices as many as planes", "finite-difference", "patterns", "patterns of one angle"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("threads")


@pytest.fixture(scope="module")
def alone(folder, request):
    return run(folder / "alone.npz", "cpu", asked_for(request), threads=THREADS, epochs=EPOCHS)[0]


@pytest.fixture(scope="module")
def together(folder, request):
    return run(folder / "together.npz", "cpu", asked_for(request), ranks=2, threads=THREADS, epochs=EPOCHS)[0]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("case", marked(CASES, LONG))
def test_threads_and_ranks_give_the_volume_of_one_thread(alone, together, case, mesh):
    expected = alone[f"{case}/1x1/1/volume"]
    found = alone if mesh == "1x1" else together
    assert expected.any()
    for threads in THREADS:
        assert difference(found[f"{case}/{mesh}/{threads}/volume"], expected) < 1e-5, f"{threads} threads"
