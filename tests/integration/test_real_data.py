"""The real near-field ptychography file, from the command line with nothing given but the focus distance."""

import h5py
import numpy as np
import pytest
from command_line import installed_multislice

from bluesky_multislice.files import read_provenance
from bluesky_multislice.solvers import split_views


@pytest.fixture(scope="module")
def result(real_scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "result.h5"
    done = installed_multislice("reconstruct", real_scan, "-o", path, "--focus-distance-mm", 3.65, timeout_s=280)
    assert done.returncode == 0, done.stdout
    return path


def test_held_back_frames_are_explained(result):
    provenance = read_provenance(result)
    figures = provenance["figures"]
    assert figures["held_back_r_factor"] <= 0.075  # 0.066 was measured
    assert figures["r_factor"] <= figures["held_back_r_factor"]
    assert provenance["plan"]["fit"]["held_back_every"] == 20
    assert len(split_views(200, provenance["plan"]["fit"]["held_back_every"])[1]) == 10


def test_the_phase_of_the_sample_is_resolved_where_the_beam_went(result):
    with h5py.File(result) as file:
        delta, positions = file["delta"][()], file["positions"][()]
        pitch = file["delta"].attrs["voxel_size_m"]
        energy_ev = file["delta"].attrs["energy_ev"]
    assert delta.shape[0] == 1, "one angle and no depth: one slice"
    assert positions.shape == (200, 2)
    assert energy_ev == pytest.approx(12_660, rel=1e-3)
    np.testing.assert_allclose(pitch[1:], 179e-9, rtol=0.01)
    wavenumber = 2 * np.pi * energy_ev / 1.239841984e-6
    phase = wavenumber * pitch[0] * delta[0]
    middle = phase[phase.shape[0] // 4 : -phase.shape[0] // 4, phase.shape[1] // 4 : -phase.shape[1] // 4]
    assert 0.05 < middle.std() < 3, "radians"
