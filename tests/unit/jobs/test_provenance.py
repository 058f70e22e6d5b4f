"""The provenance names the bytes, the settings, the software and the figures, and fits into JSON."""

import hashlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import version

import psutil
import pytest
import torch
from small_scan import hologram_scan

from bluesky_multislice.files import FrameFile, read_scan, write_scan
from bluesky_multislice.files.scan_writer import DATA
from bluesky_multislice.jobs.provenance import JobRun, make_provenance
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    write_scan(folder / "scan.cxi", hologram_scan())
    scan = read_scan(folder / "scan.cxi")
    write_scan(folder / "linked.h5", scan, files=[FrameFile(folder / "scan.cxi", DATA, 8)])
    return folder


@pytest.fixture(scope="module")
def record(folder):
    scan, recipe = read_scan(folder / "linked.h5"), Recipe(epochs=3, ranks=1, held_back_every=4)
    plan = make_plan(recipe, scan)
    job = {"recipe": recipe.model_dump(mode="json"), "plan": plan.as_dict(), "origin": {"run_uid": "abc"}}
    with join_mesh("cpu") as mesh:
        result = reconstruct(scan, plan, mesh)
        run = JobRun(mesh, seconds=1.5, peak_memory_bytes=mesh.peak_memory_bytes())
        record = make_provenance(job, result, frames=folder / "linked.h5", run=run)
    return json.loads(json.dumps(record)), result


def test_it_names_the_bytes_that_the_frames_came_from(record, folder):
    (source,) = record[0]["inputs"]
    content = (folder / "scan.cxi").read_bytes()
    assert source["path"] == str((folder / "scan.cxi").resolve())
    assert (source["bytes"], source["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_it_holds_the_job_as_it_was_asked_for(record):
    assert record[0]["origin"] == {"run_uid": "abc"}
    assert record[0]["recipe"]["epochs"] == 3
    assert record[0]["plan"]["fit"]["fit"] == json.loads(json.dumps(asdict(record[1].plan.fit)))


def test_it_names_software_and_machine(record):
    assert record[0]["software"]["torch"] == version("torch")
    assert record[0]["software"]["bluesky-multislice"] == version("bluesky-multislice")
    assert record[0]["machine"]["ranks"] == 1
    assert record[0]["machine"]["threads_per_rank"] == torch.get_num_threads()
    assert record[0]["machine"]["device"] == platform.machine()
    assert record[0]["machine"]["device_type"] == "cpu"
    resident = psutil.Process().memory_info().rss
    assert 0.3 * resident < record[0]["machine"]["peak_memory_bytes"] < psutil.virtual_memory().total


def test_its_figures_are_those_of_the_fit(record):
    figures, solution = record[0]["figures"], record[1].solution
    assert figures["model"] == "multislice"
    assert (figures["status"], figures["epochs"], figures["seconds"]) == (solution.status, 3, 1.5)
    assert figures["held_back_r_factor"] == solution.held_back_r_factor > 0
