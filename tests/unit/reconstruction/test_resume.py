"""A fit that is stopped and goes on is the fit that was never stopped: one rank, stopped between its steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import hologram_scan, pattern_scan

from bluesky_multislice.parallel import Checkpoints, join_mesh
from bluesky_multislice.planning import identity, make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.solvers import Interrupted, Journal
from bluesky_multislice.solvers.progress import FitProgress


@pytest.fixture(scope="module")
def holograms():
    return hologram_scan(angles=6)


@pytest.fixture(scope="module")
def patterns():
    """One angle."""
    scan, _ = pattern_scan(angles=1)
    return scan


class Stops:
    """Asks to stop after so many looks."""

    def __init__(self, looks):
        self.left = looks

    def __call__(self):
        self.left -= 1
        return "SIGTERM" if self.left <= 0 else ""


def run(scan, plan, folder, stop_after):
    """Return the reconstruction, and the epochs that it reported; None where it was stopped."""
    reported = []
    with join_mesh("cpu") as mesh:
        checkpoints = Checkpoints(folder, mesh, identity(scan, plan))
        journal = Journal(checkpoints, mesh, every=plan.checkpoint_every, stop_reason=Stops(stop_after))
        try:
            return reconstruct(scan, plan, mesh, reported.append, journal), reported, checkpoints
        except Interrupted:
            return None, reported, checkpoints
        finally:
            checkpoints.close()


def run_in_pieces(scan, plan, folder, looks):
    """Stop the job at every so many looks until it is done."""
    begun = []
    for _ in range(60):
        found = run(scan, plan, folder, looks)
        if found[0] is not None:
            return *found, begun
        begun.append(found[2].newest["course"]["begun"])
    raise AssertionError("the job never ends")


def losses(epochs):
    return np.array([(epoch.loss, epoch.held_back_loss or 0.0) for epoch in epochs])


CASES = {
    "holograms": {"epochs": 6},
    "Adam, with a probe": {"epochs": 6, "optimiser": "adam", "refine_probe": True},
    "refined": {"epochs": 6, "refine": {"quantities": ["axis_shift", "background"], "from_epoch": 2}},
    "polished": {"epochs": 3, "polish": 4},
    "coarse first": {"epochs": 4, "coarse_levels": 1, "start": "empty"},
    "thin first": {"epochs": 4, "first_propagation": "projection"},
    "smoothing by frames held back": {"epochs": 4, "smoothing_by_held_back": True, "held_back_every": 3},
    "two halves": {"epochs": 3, "shell_correlation": True},
    "one angle": {"epochs": 6, "optimiser": "weighted", "probe_modes": 2, "probe_variations": 2},
    "one angle, modes by validation frames": {"epochs": 3, "optimiser": "weighted"},
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_stopped_and_goes_on_ends_as_what_was_never_stopped(case, holograms, patterns, tmp_path):
    scan = patterns if case.startswith("one angle") else holograms
    plan = make_plan(Recipe(**({"ranks": 1, "device": "cpu", "held_back_every": 4} | CASES[case])), scan)
    plan = replace(plan, checkpoint_every=1)
    with join_mesh("cpu") as mesh:
        whole = reconstruct(scan, plan, mesh)
    result, reported, checkpoints, begun = run_in_pieces(scan, plan, tmp_path / "checkpoints", looks=5)
    assert len(begun) >= 2
    assert any(begun), "it was stopped between two steps, too"
    assert tuple(reported) == result.solution.history, "all epochs are reported, also those of earlier runs"
    np.testing.assert_allclose(losses(reported), losses(whole.solution.history), rtol=1e-6)
    assert result.solution.best_epoch == whole.solution.best_epoch
    assert result.solution.status == whole.solution.status
    for name in ("delta", "beta", "probe"):
        torch.testing.assert_close(getattr(result.solution, name), getattr(whole.solution, name), rtol=1e-5, atol=1e-9)
    for name, value in whole.solution.differences.items():
        torch.testing.assert_close(result.solution.differences[name], value, rtol=1e-5, atol=1e-12)
    if whole.shell_correlation:
        np.testing.assert_allclose(
            result.shell_correlation.correlation, whole.shell_correlation.correlation, rtol=1e-5, atol=1e-9
        )
    assert len([event for event in checkpoints.events if "resumed" in event]) >= 2


def test_without_a_number_of_epochs_it_goes_by_time_and_short_fits_write_nothing(holograms, tmp_path):
    plan = make_plan(Recipe(ranks=1, device="cpu", epochs=3), holograms)
    assert plan.checkpoint_every is None
    result, *_ = run(holograms, plan, tmp_path / "checkpoints", stop_after=10_000)
    assert result is not None
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("every", "number"), [(1, 2), (3, 2), (4, 1), (None, 0)])
def test_a_checkpoint_is_written_every_so_many_epochs(every, number, holograms, tmp_path):
    plan = make_plan(Recipe(ranks=1, device="cpu", epochs=7), holograms)
    with join_mesh("cpu") as mesh:
        checkpoints = Checkpoints(tmp_path, mesh, identity(holograms, plan))
        journal = Journal(checkpoints, mesh, every=every, stop_reason=lambda: "")
        fit = journal.fit("all views")
        saved = []
        course, state = FitProgress(empty=True, initial_loss=1.0), lambda: {"volume/object": torch.zeros(1, 2, 3, 4)}
        for epoch in range(1, 8):
            fit.end_epoch(course, state)
            checkpoints.wait()
            if checkpoints.newest and checkpoints.newest["epoch"] == epoch:
                saved.append(epoch)
        checkpoints.close()
    assert saved == ([] if every is None else list(range(every, 8, every)))
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == number
