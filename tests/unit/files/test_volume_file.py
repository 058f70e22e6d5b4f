"""The result file appears whole or not at all."""

import h5py
import numpy as np
import pytest
import torch
from small_scan import hologram_geometry, hologram_scan

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import read_provenance, read_volume, write_result
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import Reconstruction
from bluesky_multislice.solvers import Epoch, Solution
from bluesky_multislice.units import energy_ev_from_wavelength

SHAPE = (16, 16, 16)
VOLUME = np.arange(16**3, dtype=np.float32).reshape(SHAPE)


@pytest.fixture(scope="module")
def plan():
    return make_plan(Recipe(epochs=1, ranks=1, held_back_every=0), hologram_scan(angles=2))


@pytest.fixture
def reconstruction(plan):
    solution = Solution(
        delta=torch.from_numpy(VOLUME),
        beta=torch.from_numpy(VOLUME / 10),
        probe=torch.ones((1, 3, 4), dtype=torch.complex64),
        status="epochs_spent",
        advice="",
        best_epoch=2,
        history=tuple(Epoch(epoch, 1.0, None, 0.5) for epoch in (1, 2)),
        r_factor=0.1,
        held_back_r_factor=None,
        differences={"tilt": torch.tensor([0.1, -0.2])},
    )
    return Reconstruction(plan, hologram_geometry(angles=2), solution)


def test_volume_and_provenance_come_back(tmp_path, reconstruction):
    path, grid = tmp_path / "volume.h5", reconstruction.grid
    write_result(path, reconstruction, provenance={"origin": {"run_uid": "abc"}})
    volume = read_volume(path)
    assert volume.voxel_size_m == grid.voxel_size_m
    np.testing.assert_array_equal(volume.delta, VOLUME)
    np.testing.assert_array_equal(volume.beta, VOLUME / 10)
    assert read_provenance(path)["origin"]["run_uid"] == "abc"
    with h5py.File(path) as file:
        attributes = dict(file["beta"].attrs)
        assert attributes["energy_ev"] == energy_ev_from_wavelength(0.5e-9)
        assert list(attributes["axes"]) == ["z", "y", "x"]
        np.testing.assert_array_equal(attributes["center_m"], grid.center_m)
        assert file["positions"].attrs["units"] == "m"
        assert file["history/loss"][()].tolist() == [1.0, 1.0]
        assert "shell_correlation" not in file


def test_volumes_are_written_from_the_parts_of_all_ranks(tmp_path, reconstruction):
    parts = [(slice(0, 9), 2 * VOLUME[:, :9]), (slice(9, 16), 2 * VOLUME[:, 9:])]
    write_result(tmp_path / "volume.h5", reconstruction, volumes={"delta": iter(parts)})
    volume = read_volume(tmp_path / "volume.h5")
    np.testing.assert_array_equal(volume.delta, 2 * VOLUME)
    np.testing.assert_array_equal(volume.beta, VOLUME / 10)


def test_refined_quantities_are_in_the_file(tmp_path, reconstruction):
    write_result(tmp_path / "volume.h5", reconstruction)
    with h5py.File(tmp_path / "volume.h5") as file:
        np.testing.assert_array_equal(file["refined/tilt"], np.float32([0.1, -0.2]))


def test_a_write_that_fails_leaves_no_result(tmp_path, reconstruction):
    with pytest.raises(TypeError):
        write_result(tmp_path / "volume.h5", reconstruction, provenance={"not JSON": object()})
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
