"""The job on a folder made by hand: no scheduler, no Tiled, no Prefect; once with the launcher, else forked."""

import json
import os
import subprocess
import sys

import h5py
import job_of_each_rank
import numpy as np
import pytest
from compute_node import packages_of_a_compute_node
from forked_jobs import run_job
from forked_ranks import run_on_ranks
from PIL import Image
from small_scan import hologram_scan
from torch.multiprocessing import ProcessExitedException

from bluesky_multislice.errors import FramesError, JobError
from bluesky_multislice.files import read_provenance, read_volume, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe

DATA = "entry_1/instrument_1/detector_1/data"
SERVICES = ("prefect", "tiled", "bluesky", "databroker", "ophyd", "matplotlib")


def stage(path, **recipe):
    """A job folder of the little ball, as the flow would stage it."""
    folder, scan = JobFolder(path).create(), hologram_scan()
    settings = Recipe(**({"ranks": 2, "epochs": 3, "held_back_every": 4} | recipe))
    write_scan(folder.frames, scan)
    plan = make_plan(settings, scan).as_dict()
    folder.write_job(recipe=settings.model_dump(mode="json"), plan=plan, origin={"run_uid": "by hand"})
    return folder


def launch(folder, **environment):
    command = [sys.executable, "-m", "bluesky_multislice.parallel.start_ranks", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, "-m", "bluesky_multislice.jobs.job", str(folder.path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished job whose launcher and ranks found only the packages of a compute node."""
    room = tmp_path_factory.mktemp("job")
    (room / "startup").mkdir()
    path = [packages_of_a_compute_node(room / "startup"), *filter(None, [os.environ.get("PYTHONPATH")])]
    folder = stage(room / "folder")
    process = launch(folder, PYTHONPATH=os.pathsep.join(path))
    assert process.returncode == 0, process.stdout
    return folder


def test_a_job_needs_only_the_packages_of_a_compute_node(done):
    refused = (done.path.parent / "startup" / "refused").read_text().split()
    assert refused, "optional packages of others are looked for"
    assert not [name for name in refused if name.startswith(SERVICES)]
    assert done.read_job()["plan"]["fit"]["start"] == "thin_sample", "SciPy must have been imported"


def picture(folder):
    """The preview that a job has left, (row, column)."""
    with Image.open(folder.preview) as found:
        return np.asarray(found).astype(int)


def test_the_mesh_does_not_change_the_volume(done, tmp_path):
    volumes, pictures = [read_volume(done.result)], [picture(done)]
    for mesh in ("1x1", "1x2"):
        folder = stage(tmp_path / mesh, ranks=None, mesh=mesh)
        assert run_job(folder, ranks=2 if mesh == "1x2" else 1) == 0, folder.log.read_text()
        volumes.append(read_volume(folder.result))
        pictures.append(picture(folder))
    for other in pictures[1:]:
        assert np.ptp(pictures[0]) > 100
        assert np.abs(other - pictures[0]).max() <= 1
    for other in volumes[1:]:
        for part in ("delta", "beta"):
            whole, found = getattr(volumes[0], part), getattr(other, part)
            assert whole.any()
            assert np.linalg.norm(found - whole) < 1e-5 * np.linalg.norm(whole)


def test_ranks_that_see_different_scans_are_refused(tmp_path):
    folders = [stage(tmp_path / str(rank), step=step) for rank, step in enumerate((1.0, 1.0, 2.0))]
    for rank, kind in ((1, "scan"), (2, "plan")):
        if kind == "scan":
            with h5py.File(folders[1].frames, "r+") as file:
                file["entry_1/instrument_1/detector_1/distance"][...] *= 1.5
        folders[0].clear_last_run()
        with pytest.raises(ProcessExitedException):
            run_on_ranks(job_of_each_rank.main, 2, folders[0], folders[rank])
        error = str(folders[0].read_error())
        assert "see the same files" in error
        assert f"on ranks 0 and 1 {kind} " in error


def test_ranks_that_are_no_multiple_of_the_slabs_are_refused(tmp_path):
    folder = stage(tmp_path / "folder", ranks=None, mesh="1x2")
    assert run_job(folder, ranks=3) != 0
    assert "3 ranks and 2 slabs" in str(folder.read_error())


def test_a_job_needs_neither_prefect_nor_tiled(done):
    assert read_provenance(done.result)["origin"] == {"run_uid": "by hand"}
    assert read_provenance(done.result)["machine"]["ranks"] == 2
    assert done.read_error() is None


def test_progress_has_a_line_an_epoch_from_one_rank(done):
    lines = [json.loads(line) for line in done.progress.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {line["epochs"] for line in lines} == {3}
    assert all(line["memory_bytes"] > 1e8 for line in lines)
    assert all(line["loss"] > 0 and line["held_back_loss"] > 0 and line["seconds"] > 0 for line in lines)
    with h5py.File(done.result) as file:
        np.testing.assert_allclose(file["history/loss"], [line["loss"] for line in lines])


def test_an_error_is_left_in_the_folder_and_a_restart_forgets_it(tmp_path):
    folder = stage(tmp_path / "folder")
    with h5py.File(folder.frames, "r+") as file:
        clean = file[DATA][5]
        file[DATA][5] = np.full_like(clean, np.nan)
    folder.progress.write_text('{"epoch": 1}\n' * 7)
    assert run_job(folder) == 1
    error = folder.read_error()
    assert isinstance(error, FramesError)
    assert "view 5" in error.got
    assert folder.read_progress() == []
    assert not folder.result.exists()
    with h5py.File(folder.frames, "r+") as file:
        file[DATA][5] = clean
    assert run_job(folder) == 0, folder.log.read_text()
    assert folder.read_error() is None
    assert [record["epoch"] for record in folder.read_progress()] == [1, 2, 3]
    assert folder.result.exists()


def test_a_second_error_replaces_the_first(tmp_path):
    folder = stage(tmp_path / "folder", ranks=1)
    folder.write_error(FramesError("an older rule", got="an older fault", remedy="none"))
    folder.job.write_text("{")
    assert run_job(folder, ranks=1) == 1
    error = folder.read_error()
    assert isinstance(error, JobError)
    assert "job.json" in error.rule
