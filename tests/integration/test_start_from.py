"""Former results from files and from Tiled: staged with the job, the same on any number of ranks, named afterwards."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import multislice, refused
from flow_runs import QUICK, run
from forked_jobs import run_job
from small_scan import hologram_scan

from bluesky_multislice.catalog import fetch_result, find_reconstructions, publish
from bluesky_multislice.errors import CatalogError, ScanError
from bluesky_multislice.files import (
    link_result,
    read_former,
    read_provenance,
    read_volume,
    write_scan,
)
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe

STILL = {"epochs": 1, "step": 1e-3, "held_back_every": 4}


def stage(path, former=None, **recipe):
    """A job folder of the little ball, as the flow would stage it."""
    folder, scan = JobFolder(path).create(), hologram_scan()
    settings = Recipe(**({"ranks": 1} | recipe))
    write_scan(folder.frames, scan)
    if former is not None:
        link_result(former, folder.former)
        scan = replace(scan, former=read_former(folder.former))
    plan = make_plan(settings, scan)
    folder.write_job(recipe=settings.model_dump(mode="json"), plan=plan.as_dict(), origin={"run_uid": "by hand"})
    return folder


def first_misfit(path):
    with h5py.File(path) as file:
        return file["history/held_back_loss"][0]


def last_misfit(path):
    with h5py.File(path) as file:
        return file["history/held_back_loss"][()].min()


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The result of a job."""
    folder = stage(tmp_path_factory.mktemp("first") / "folder", epochs=12, held_back_every=4)
    assert run_job(folder, ranks=1) == 0, folder.log.read_text()
    return folder.result


@pytest.fixture
def published(result, folder, tiled_client):
    """The path of the same result in Tiled."""
    copy = Path(shutil.copy(result, folder / "volume.h5"))
    return publish(
        tiled_client, copy, run_uid="first-run", recipe_digest="d1", provenance=read_provenance(copy), start={}
    )


def test_any_number_of_ranks_starts_from_the_same_volume(result, tmp_path):
    volumes = []
    for mesh, ranks in (("1x1", 1), ("1x2", 2), ("2x1", 2)):
        folder = stage(tmp_path / mesh, result, **STILL, ranks=None, mesh=mesh, oversampling=2, slices=9)
        assert run_job(folder, ranks=ranks) == 0, folder.log.read_text()
        volumes.append(read_volume(folder.result))
    for other in volumes[1:]:
        for part in ("delta", "beta"):
            whole, found = getattr(volumes[0], part), getattr(other, part)
            assert whole.any()
            assert np.linalg.norm(found - whole) < 1e-5 * np.linalg.norm(whole)


def test_a_job_ends_with_an_error_if_the_result_has_changed(result, tmp_path):
    former = Path(shutil.copy(result, tmp_path / "former.h5"))
    folder = stage(tmp_path / "folder", former, **STILL)
    with h5py.File(former, "r+") as file:
        file["delta"][...] *= 2
    assert run_job(folder, ranks=1) == 1
    error = folder.read_error()
    assert isinstance(error, ScanError)
    assert str(former) in error.got


def test_the_command_starts_from_a_file_and_names_it(result, tmp_path):
    write_scan(tmp_path / "scan.cxi", hologram_scan())
    command = ("reconstruct", tmp_path / "scan.cxi", "-o", tmp_path / "next.h5", "--ranks", 1)
    still = ("--epochs", 1, "--step", 1e-3, "--held-back-every", 4)
    done = multislice(*command, *still, "--start-from", result)
    assert done.returncode == 0, done.stdout
    assert f"starts from {result}" in done.stdout.replace("\n", "")
    assert first_misfit(tmp_path / "next.h5") < 1.1 * last_misfit(result)
    provenance = read_provenance(tmp_path / "next.h5")
    assert provenance["origin"]["former_result"]["path"] == str(result)
    assert len(provenance["origin"]["former_result"]["sha256"]) == 64
    assert provenance["figures"]["start"] == f"former result {result}"


def test_a_name_that_is_neither_file_nor_node_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("MULTISLICE_TILED_URI", raising=False)
    write_scan(tmp_path / "scan.cxi", hologram_scan())
    command = ("reconstruct", tmp_path / "scan.cxi", "-o", tmp_path / "next.h5", "--start-from")
    assert refused(multislice(*command, "missing.h5"), "missing.h5", "MULTISLICE_TILED_URI")
    assert refused(multislice(*command, tmp_path / "scan.cxi"), "former result")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.cxi"]


def test_the_flow_starts_from_a_result_in_tiled(services, take, published, result, tiled_client):
    uid = take()
    recipe = QUICK.model_copy(update={"epochs": 1, "step": 1e-3, "start_from": published})
    state = run(uid, recipe)
    assert state.is_completed(), state.message
    (found,) = find_reconstructions(tiled_client, uid)
    node = tiled_client[found.path]
    assert node["history"].read()["held_back_loss"][0] < 1.1 * last_misfit(result)
    origin = node.metadata["provenance"]["origin"]["former_result"]
    assert (origin["name"], origin["run_uid"]) == (published, "first-run")
    assert node.metadata["technique"] == "holography"


def test_a_copy_from_tiled_is_the_result(published, result, tiled_client, tmp_path):
    fetch_result(tiled_client, published, tmp_path / "by-path.h5")
    fetch_result(tiled_client, tiled_client[published].uri, tmp_path / "by-address.h5")
    whole = read_former(result)
    for name in ("by-path.h5", "by-address.h5"):
        copy = read_former(tmp_path / name)
        assert copy.grid == whole.grid
        assert (copy.technique, copy.regime, copy.frame_intensity) == (
            "holography",
            "near_field",
            whole.frame_intensity,
        )
        np.testing.assert_array_equal(copy.probe, whole.probe)
        np.testing.assert_array_equal(copy.views, whole.views)
        for part in ("delta", "beta"):
            planes = list(copy.volumes.planes(part, slice(0, 16)))
            np.testing.assert_array_equal(planes, list(whole.volumes.planes(part, slice(0, 16))))


def test_nodes_that_are_no_result_of_this_catalogue_are_refused(published, tiled_client, tmp_path):
    for path, words in (
        ("reconstructions/nowhere", "neither a file nor a node"),
        ("reconstructions", "complete result"),
        (f"{published}/delta", "complete result"),
        ("http://example.invalid/api/v1/metadata/a", "catalogue of the scan"),
    ):
        with pytest.raises(CatalogError, match=words):
            fetch_result(tiled_client, path, tmp_path / "former.h5")
    assert not (tmp_path / "former.h5").exists()
