"""A real reconstruction on the ranks of two nodes, by the flow's own road without the flow, and what may befall it."""

import logging

import h5py
import numpy as np
import pytest
from slurm_cluster import eventually, processes_of
from slurm_jobs import GRACE_S, room, site
from small_scan import hologram_scan

from bluesky_multislice.interchange import JobFolder, read_provenance, write_scan
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.schedulers import (
    LocalScheduler,
    SlurmScheduler,
    allocate,
    make_scheduler,
    read_site,
    run_to_end,
)
from flows.owned_job import OwnedJob

pytestmark = pytest.mark.system
__all__ = ["room"]

EPOCHS = 300
"""So many that a fit is still under way when the test has seen its first."""
SERVICES = ("prefect", "tiled", "bluesky", "databroker", "bluesky_tiled_plugins", "ophyd_async", "matplotlib")


def stage(path, ranks, **wanted):
    folder, scan = JobFolder(path).create(), hologram_scan()
    recipe = Recipe(**({"ranks": ranks, "epochs": 3, "held_back_every": 4} | wanted))
    write_scan(folder.frames, scan)
    plan = make_plan(recipe, scan)
    folder.write_job(recipe=recipe.model_dump(mode="json"), plan=plan.as_dict(), origin={"run_uid": "by hand"})
    return folder, allocate(site(), recipe.resources, ranks=plan.ranks)


@pytest.mark.parametrize("ranks", [2, 4])
def test_two_nodes_reconstruct_what_one_machine_does(room, ranks):
    profile = site(environment={"PYTHONPATH": str(blocked(room))}, ranks_per_node=ranks // 2)
    folder, _ = stage(room / "slurm", ranks)
    allocation = allocate(profile, Recipe().resources, ranks=ranks)
    assert (allocation.nodes, allocation.ranks_per_node) == (2, ranks // 2)
    epochs = []
    run_to_end(make_scheduler(profile), folder, name="real", allocation=allocation, on_progress=epochs.append)
    assert [record["epoch"] for record in epochs] == [1, 2, 3]
    machine = read_provenance(folder.result)["machine"]
    assert (machine["ranks"], machine["restarts"]) == (ranks, 0)
    assert machine["slurm_job"] == folder.read_submission()["job_id"]
    here, allocation = stage(room / "here", ranks)
    run_to_end(
        LocalScheduler(),
        here,
        name="real",
        allocation=allocate(read_site(None), Recipe().resources, ranks=ranks),
        on_progress=epochs.append,
    )
    np.testing.assert_allclose(delta_of(folder), delta_of(here), rtol=1e-3, atol=1e-3 * np.abs(delta_of(here)).max())


def long_fit(path, **wanted):
    """A fit on a rank of each node, and what submits and follows it."""
    profile = site(ranks_per_node=1)
    folder, _ = stage(path, ranks=2, epochs=EPOCHS, **wanted)
    allocation = allocate(profile, Recipe().resources, ranks=2)
    assert allocation.nodes == 2
    return folder, allocation, SlurmScheduler(profile, grace_s=GRACE_S, poll_s=0.2)


def test_a_fit_whose_rank_is_killed_goes_on_from_its_checkpoint_to_its_volume(room):
    folder, allocation, slurm = long_fit(room / "job", checkpoint_every=1)
    job = OwnedJob(slurm, folder, name="killed", most_restarts=1, log=logging.getLogger(__name__))
    killed = []

    def kill(record):
        if not killed and list(folder.checkpoints.glob("0*[0-9]")):
            killed.append(folder.read_submission()["job_id"])
            (rank,) = [each for each in processes_of(folder.path) if each.environ().get("RANK") == "1"]
            rank.kill()

    job.run(allocation, on_progress=kill, on_status=lambda status: None)
    assert job.restarts == 1
    machine = read_provenance(folder.result)["machine"]
    (resumed,) = machine["resumed"]
    assert 0 < resumed["epoch"] < EPOCHS
    assert (machine["ranks"], machine["restarts"]) == (2, 1)
    assert machine["slurm_job"] == folder.read_submission()["job_id"] != killed[0]
    assert_whole(folder)


def assert_whole(folder):
    """The fit did each epoch once, left a volume and nothing to go on from, and no process."""
    with h5py.File(folder.result) as file:
        epochs = file["history/epoch"][()]
        np.testing.assert_array_equal(epochs, np.arange(1, len(epochs) + 1))
        assert np.isfinite(file["delta"][()]).all()
    assert not folder.checkpoints.exists()
    eventually(lambda: not processes_of(folder.path), limit_s=10)


def delta_of(folder):
    with h5py.File(folder.result) as file:
        return file["delta"][()]


def blocked(room):
    """A folder whose packages say that a job needs none of the services."""
    place = room / "blocked"
    for name in SERVICES:
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text("raise ImportError('the job needs no service')\n")
    return place
