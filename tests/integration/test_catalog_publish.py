"""Reconstructions in Tiled: whole or not at all, never changed."""

import threading

import h5py
import numpy as np
import pytest
from installed_package import installed
from numpy.testing import assert_array_equal
from published_result import check_content, publish_result, write_result

from bluesky_multislice.catalog import find_reconstructions
from bluesky_multislice.errors import CatalogError
from bluesky_multislice.files import result_arrays
from bluesky_multislice.files.result_arrays import GROUP


def test_a_result_is_registered_where_it_lies(tiled_client, folder):
    result = write_result(folder / "volume.h5")
    path = publish_result(tiled_client, result, "run-a")
    node = tiled_client[path]
    check_content(node, result)
    assert node["delta"].data_sources()[0].assets[0].data_uri.endswith(str(result))
    assert node.metadata["status"] == "complete"
    assert node.metadata["voxel_size_m"] == [4e-7, 1e-7, 1e-7]
    assert node.metadata["energy_ev"] == 12400.0
    assert node.metadata["model"] == "multislice"
    assert node.metadata["figures"]["r_factor"] == 0.09
    assert node.metadata["run"]["scan_id"] == 7
    assert node.metadata["provenance"]["package"]["version"] == "0.1.0"
    assert node["delta"].metadata["axes"] == ["z", "y", "x"]


def test_an_array_of_another_package_is_published_too(tiled_client, folder, tmp_path, monkeypatch):
    source = """
from bluesky_multislice.files import ResultArray
PROJECTION = ResultArray("projection", ("y", "x"), "m", "δ integrated along z", lambda result: None)
"""
    offer = {"module": "facility_arrays", "source": source, "group": GROUP}
    points = {"projection": "facility_arrays:PROJECTION"}
    with installed(tmp_path, monkeypatch, result_arrays, points=points, **offer):
        result = write_result(folder / "volume.h5")
        with h5py.File(result, "a") as file:
            file["projection"] = np.ones((20, 30))
            file["projection"].attrs["units"] = "m"
        node = tiled_client[publish_result(tiled_client, result, "run-with-projection")]
    assert node["projection"].dims == ("y", "x")
    assert node["projection"].metadata["units"] == "m"
    assert_array_equal(node["projection"][:], np.ones((20, 30)))


def test_a_result_elsewhere_is_uploaded(tiled_client, tmp_path):
    result = write_result(tmp_path / "volume.h5")
    path = publish_result(tiled_client, result, "run-b")
    result.rename(tmp_path / "moved.h5")
    check_content(tiled_client[path], tmp_path / "moved.h5")
    assert tiled_client[path].metadata["status"] == "complete"


def test_a_result_without_optional_groups_is_complete_too(tiled_client, folder):
    result = write_result(folder / "volume.h5", without=["shell_correlation", "refined", "frame_r_factors"])
    node = tiled_client[publish_result(tiled_client, result, "run-without-groups")]
    assert "shell_correlation" not in node
    assert "refined" not in node
    assert node.metadata["status"] == "complete"


def test_other_threads_can_use_hdf5_while_a_result_is_published(tiled_client, folder):
    blocked = []

    def read_in_another_thread(request):
        reader = threading.Thread(target=h5py.File(result).close)
        reader.start()
        reader.join(10)
        blocked.extend([str(request.url)] if reader.is_alive() else [])

    result = write_result(folder / "volume.h5")
    hooks = tiled_client.context.http_client.event_hooks["request"]
    hooks.append(read_in_another_thread)
    try:
        publish_result(tiled_client, result, "run-read")
    finally:
        hooks.remove(read_in_another_thread)
    assert blocked == []


def test_a_rerun_is_a_new_node_that_names_the_former(tiled_client, folder):
    result = write_result(folder / "volume.h5")
    first = publish_result(tiled_client, result, "run-c")
    before = dict(tiled_client[first].metadata)
    second = publish_result(tiled_client, result, "run-c")
    other = publish_result(tiled_client, result, "run-c", digest="d2")
    assert dict(tiled_client[first].metadata) == before
    assert tiled_client[second].metadata["reran"] == first
    assert "reran" not in tiled_client[other].metadata
    found = find_reconstructions(tiled_client, "run-c")
    assert [(each.path, each.status, each.recipe_digest) for each in found] == [
        (first, "complete", "d1"),
        (second, "complete", "d1"),
        (other, "complete", "d2"),
    ]
    assert [each.path for each in find_reconstructions(tiled_client, "run-c", "d2")] == [other]
    assert find_reconstructions(tiled_client, "never-reconstructed") == []


@pytest.mark.parametrize("without", ["beta", "history", "history/epoch"])
def test_an_interrupted_publication_does_not_look_complete(tiled_client, folder, without):
    run_uid = f"run-without-{without.replace('/', '-')}"
    result = write_result(folder / "volume.h5", without=[without])
    with pytest.raises(CatalogError, match="published completely"):
        publish_result(tiled_client, result, run_uid)
    assert [each.status for each in find_reconstructions(tiled_client, run_uid)] == ["failed"]
    again = publish_result(tiled_client, write_result(folder / "whole.h5"), run_uid)
    assert "reran" not in tiled_client[again].metadata


def test_a_missing_or_damaged_result_leaves_nothing(tiled_client, folder):
    result = folder / "volume.h5"
    with pytest.raises(CatalogError, match="published completely"):
        publish_result(tiled_client, result, "run-e")
    result.write_bytes(b"no HDF5")
    with pytest.raises(CatalogError, match="published completely"):
        publish_result(tiled_client, result, "run-e")
    assert find_reconstructions(tiled_client, "run-e") == []
