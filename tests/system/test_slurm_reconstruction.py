"""A real reconstruction on the ranks of two nodes, by the flow's own road without the flow."""

import h5py
import numpy as np
import pytest
from slurm_jobs import room, site
from small_scan import hologram_scan

from bluesky_multislice.files import read_provenance, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import (
    LocalScheduler,
    allocate,
    make_scheduler,
    read_site,
    run_and_wait,
)
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe

pytestmark = pytest.mark.system
__all__ = ["room"]

SERVICES = ("prefect", "tiled", "bluesky", "databroker", "bluesky_tiled_plugins", "ophyd_async", "matplotlib")


def stage(path, ranks):
    folder, scan = JobFolder(path).create(), hologram_scan()
    recipe = Recipe(ranks=ranks, epochs=3, held_back_every=4)
    write_scan(folder.frames, scan)
    plan = make_plan(recipe, scan)
    folder.write_job(recipe=recipe.model_dump(mode="json"), plan=plan.as_dict(), origin={"run_uid": "by hand"})
    return folder


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.matrix), 4])
def test_two_nodes_reconstruct_what_one_machine_does(room, ranks):
    profile = site(environment={"PYTHONPATH": str(blocked(room))}, ranks_per_node=ranks // 2)
    folder = stage(room / "slurm", ranks)
    allocation = allocate(profile, Recipe().resources, ranks=ranks)
    assert (allocation.nodes, allocation.ranks_per_node) == (2, ranks // 2)
    epochs = []
    run_and_wait(make_scheduler(profile), folder, name="real", allocation=allocation, on_progress=epochs.append)
    assert [record["epoch"] for record in epochs] == [1, 2, 3]
    machine = read_provenance(folder.result)["machine"]
    assert (machine["ranks"], machine["restarts"]) == (ranks, 0)
    assert machine["slurm_job"] == folder.read_record().job_id
    here = stage(room / "here", ranks)
    run_and_wait(
        LocalScheduler(),
        here,
        name="real",
        allocation=allocate(read_site(None), Recipe().resources, ranks=ranks),
        on_progress=epochs.append,
    )
    np.testing.assert_allclose(delta_of(folder), delta_of(here), rtol=1e-3, atol=1e-3 * np.abs(delta_of(here)).max())


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
