"""A small result file, and what must be in Tiled after its publication."""

import json

import h5py
import numpy as np
from numpy.testing import assert_array_equal

from bluesky_multislice.catalog import publish

PROVENANCE = {"figures": {"model": "multislice", "r_factor": 0.09}, "package": {"version": "0.1.0"}}


def write_result(path, *, without=()):
    rng = np.random.default_rng(3)
    with h5py.File(path, "w") as file:
        for name in ("delta", "beta"):
            file.create_dataset(name, data=rng.random((6, 20, 30)).astype(np.float32), chunks=(2, 20, 30))
            file[name].attrs.update({"voxel_size_m": [4e-7, 1e-7, 1e-7], "energy_ev": 12400.0, "axes": ["z", "y", "x"]})
        file["probe"] = (rng.random((2, 8, 8)) + 1j).astype(np.complex64)
        file["positions"] = rng.random((5, 2))
        file["frame_r_factors"] = rng.random(5)
        for name in ("epoch", "loss", "held_back_loss", "seconds", "coarseness"):
            file[f"history/{name}"] = np.arange(4.0)
        for name in ("frequency_per_m", "correlation", "half_bit"):
            file[f"shell_correlation/{name}"] = np.arange(3.0)
        file["refined/positions"] = rng.random((5, 2))
        file["refined/defocus"] = 2e-6
        file["provenance"] = json.dumps(PROVENANCE)
        for name in without:
            del file[name]
    return path


def publish_result(client, result, run_uid, digest="d1"):
    start = {"uid": run_uid, "scan_id": 7, "technique": "holography"}
    return publish(client, result, run_uid=run_uid, recipe_digest=digest, provenance=PROVENANCE, start=start)


def check_content(node, result):
    with h5py.File(result) as file:
        for name in ("delta", "beta", "probe", "positions", "frame_r_factors"):
            assert_array_equal(node[name][:], file[name][()])
            assert node[name].dtype == file[name].dtype
        assert_array_equal(node["probe_amplitude"][:], np.abs(file["probe"][()]))
        if "refined" in file:
            assert_array_equal(node["refined", "positions"][:], file["refined/positions"][()])
            assert node["refined", "defocus"][:].tolist() == [2e-6]
    assert node["delta"].dims == ("z", "y", "x")
    assert node["history"].read()["held_back_loss"].tolist() == [0.0, 1.0, 2.0, 3.0]
    if "shell_correlation" in node:
        assert node["shell_correlation"].read()["half_bit"].tolist() == [0.0, 1.0, 2.0]
    assert (node["preview"].dtype, node["preview"].ndim) == (np.uint8, 2)
