"""The result file appears whole or not at all."""

import h5py
import numpy as np
import pytest

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import read_provenance, read_volume, write_result
from bluesky_multislice.measurement import VolumeGrid

GRID = VolumeGrid((2, 3, 4), (2e-9, 1e-9, 1e-9), (0.0, 1e-6, 2e-6))


def result(path, **changed):
    volume = np.arange(24, dtype=np.float32).reshape(GRID.shape)
    write_result(
        path,
        **{
            "delta": [(slice(0, 2), volume[:, :2]), (slice(2, 3), volume[:, 2:])],
            "beta": [(slice(0, 3), volume / 10)],
            "probe": np.ones((1, 3, 4), np.complex64),
            "positions": np.zeros((5, 2)),
            "history": {"epoch": np.arange(1, 4), "loss": np.ones(3)},
            "grid": GRID,
            "energy_ev": 9000.0,
            "provenance": {"origin": {"run_uid": "abc"}},
        }
        | changed,
    )


def test_volume_and_provenance_come_back(tmp_path):
    result(tmp_path / "volume.h5")
    volume = read_volume(tmp_path / "volume.h5")
    assert volume.voxel_size_m == GRID.voxel_size_m
    np.testing.assert_array_equal(volume.delta, np.arange(24).reshape(GRID.shape))
    np.testing.assert_allclose(volume.beta, volume.delta / 10)
    assert read_provenance(tmp_path / "volume.h5")["origin"]["run_uid"] == "abc"
    with h5py.File(tmp_path / "volume.h5") as file:
        attributes = dict(file["beta"].attrs)
        assert attributes["energy_ev"] == 9000
        assert list(attributes["axes"]) == ["z", "y", "x"]
        np.testing.assert_array_equal(attributes["center_m"], GRID.center_m)


def test_what_was_refined_stands_in_the_file(tmp_path):
    result(tmp_path / "volume.h5", refined={"tilt": np.array([0.1, -0.2])})
    with h5py.File(tmp_path / "volume.h5") as file:
        np.testing.assert_array_equal(file["refined/tilt"], [0.1, -0.2])


def test_a_write_that_fails_leaves_no_result(tmp_path):
    with pytest.raises(TypeError):
        result(tmp_path / "volume.h5", provenance={"not JSON": object()})
    assert not (tmp_path / "volume.h5").exists()


@pytest.mark.parametrize("place", ["file", "delta"])
def test_voxel_size_stands_on_the_file_or_on_delta_as_one_number_or_three(tmp_path, place):
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["delta"] = file["beta"] = np.zeros((2, 2, 2))
        (file if place == "file" else file["delta"]).attrs["voxel_size_m"] = 1e-9
    assert read_volume(tmp_path / "volume.h5").voxel_size_m == (1e-9, 1e-9, 1e-9)


def test_a_volume_without_beta_is_refused(tmp_path):
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["delta"] = np.zeros((2, 2, 2))
    with pytest.raises(ScanError, match="beta"):
        read_volume(tmp_path / "volume.h5")
