"""A former result is read whole or refused by name; its stand-in in a job folder notices that it has changed."""

import json

import h5py
import numpy as np
import pytest

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import former_record, link_result, read_former
from bluesky_multislice.units import wavelength_m_from_energy

VIEWS = {"angle_rad": np.zeros(5), "distance_m": np.ones(5), "y_m": np.arange(5.0), "x_m": np.zeros(5)}


def write_file(path, **changed):
    """A result file as the job writes it; ``changed`` replaces arrays, and leaves out those that are None."""
    rng = np.random.default_rng(3)
    arrays = {"delta": rng.random((4, 6, 5)), "beta": rng.random((4, 6, 5)), "probe": rng.random((2, 3, 4)) + 1j}
    arrays |= {"positions": rng.random((5, 2)), "refined/tilt": np.ones(2), "provenance": json.dumps({"plan": {}})}
    arrays |= {f"views/{name}": column for name, column in VIEWS.items()}
    with h5py.File(path, "w") as file:
        for name, values in (arrays | changed).items():
            if values is not None:
                file[name] = values.astype(np.float32) if name in ("delta", "beta") else values
        file.attrs.update(technique="holography", regime="near_field")
        for name in {"delta", "beta"} & set(file):
            file[name].attrs.update(voxel_size_m=(3e-9, 1e-9, 2e-9), center_m=(0, 1e-9, 0), energy_ev=8000.0)
        if "probe" in file:
            file["probe"].attrs.update(oversampling=2, frame_intensity=7.0)
    return path


def test_everything_of_a_result_comes_back(tmp_path):
    former = read_former(write_file(tmp_path / "volume.h5"))
    assert (former.technique, former.regime, former.oversampling) == ("holography", "near_field", 2)
    assert former.frame_intensity == 7.0
    assert former.wavelength_m == pytest.approx(wavelength_m_from_energy(8000))
    assert former.grid.shape == (4, 6, 5)
    assert former.grid.voxel_size_m == (3e-9, 1e-9, 2e-9)
    assert former.grid.center_m == (0, 1e-9, 0)
    assert former.views.shape == (5, 4)
    assert former.views[:, 2].tolist() == list(range(5))
    assert former.refined["tilt"].tolist() == [1, 1]
    (first, *_) = former.volumes.planes("beta", slice(2, 4))
    assert first.shape == (2, 5)


def test_the_stand_in_refers_to_the_volumes_and_names_the_file(tmp_path):
    path, into = write_file(tmp_path / "volume.h5"), tmp_path / "former.h5"
    link_result(path, into)
    whole, staged = read_former(path), read_former(into)
    assert into.stat().st_size < path.stat().st_size + 20_000
    assert staged.digest == whole.digest
    record = former_record(staged)
    assert record["name"] == record["path"] == str(path)
    assert len(record["sha256"]) == 64
    for name in ("delta", "beta"):
        planes = list(staged.volumes.planes(name, slice(0, 6)))
        np.testing.assert_array_equal(planes, list(whole.volumes.planes(name, slice(0, 6))))


@pytest.mark.parametrize("gone", [True, False])
def test_a_result_that_changes_after_staging_is_refused(tmp_path, gone):
    path, into = write_file(tmp_path / "volume.h5"), tmp_path / "former.h5"
    link_result(path, into)
    if gone:
        path.unlink()
    else:
        write_file(path, delta=np.ones((4, 6, 5)))
    with pytest.raises(ScanError, match=r"volume\.h5"):
        read_former(into)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"beta": None}, "no array beta"),
        ({"probe": None}, "no array probe"),
        ({"positions": None}, "no array positions"),
        ({"probe": np.zeros((2, 3, 4), complex)}, "probe"),
        ({"probe": np.full((2, 3, 4), np.nan + 0j)}, "24 NaN or infinite values in probe"),
        ({"positions": np.full((5, 2), np.inf)}, "10 NaN or infinite values in positions"),
        ({"refined/tilt": np.array([0, np.nan])}, "NaN or infinite values in refined/tilt"),
        ({"delta": np.zeros((4, 6))}, "delta of shape"),
        ({"beta": np.zeros((4, 6, 4))}, "beta of shape"),
        ({"positions": np.zeros((4, 2))}, "5 views for 4 positions"),
    ],
)
def test_a_file_that_is_no_whole_result_is_refused_by_name(tmp_path, changed, words):
    path = write_file(tmp_path / "volume.h5", **changed)
    with pytest.raises(ScanError, match=words) as caught:
        read_former(path)
    assert "volume.h5" in caught.value.got


@pytest.mark.parametrize("name", ["delta", "beta"])
def test_a_volume_with_nan_is_refused_when_it_is_staged(tmp_path, name):
    volume = np.zeros((4, 6, 5))
    volume[1, 2, 3] = np.nan
    with pytest.raises(ScanError, match=f"1 NaN or infinite values in plane 1 of {name}"):
        link_result(write_file(tmp_path / "volume.h5", **{name: volume}), tmp_path / "former.h5")
    assert not (tmp_path / "former.h5").exists()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no HDF5")
    with h5py.File(tmp_path / "scan.cxi", "w") as file:
        file["entry_1/data"] = np.zeros(3)
    for name in ("notes.txt", "scan.cxi", "missing.h5"):
        with pytest.raises(ScanError, match="former result"):
            read_former(tmp_path / name)
