"""Full-field microscopy with a lens, a technique defined by one file."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from small_scan import VOXEL_M, ball, blank, hologram_geometry, rebuild, relative_error

from bluesky_multislice.cli.simulate_file import Simulation, simulate_file
from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import read_scan, write_scan
from bluesky_multislice.measurement import VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions

N = 16
APERTURE = "entry_1/instrument_1/lens_1/numerical_aperture"


def microscope_geometry(angles=12, distances_m=(0.0,), aperture=0.25):
    """All distances at every angle."""
    one = hologram_geometry(N, angles)
    each = len(distances_m)
    return replace(
        one,
        technique="microscopy",
        detector=replace(one.detector, imaged=True),
        distance_m=np.tile(distances_m, angles),
        angle_rad=np.repeat(one.angle_rad, each),
        position_m=np.repeat(one.position_m, each, axis=0),
        values={"numerical_aperture": aperture},
    )


def image(geometry, delta, beta):
    """The first frame (y, x) of a volume."""
    model = ForwardModel(geometry, VolumeGrid((N, N, N), (VOXEL_M,) * 3), ModelOptions(N, precision=torch.float64))
    wave = torch.ones((1, N, N), dtype=torch.complex128)
    return model(torch.as_tensor(delta).double(), torch.as_tensor(beta).double(), wave, [0])[0].numpy()


def test_an_image_in_focus_is_the_absorption_where_the_lens_takes_everything():
    beta = ball(N, delta=2e-3)
    wavelength_m = hologram_geometry().beam.wavelength_m
    expected = np.exp(-4 * np.pi / wavelength_m * VOXEL_M * beta.sum(0))
    found = image(microscope_geometry(aperture=1.0), 0 * beta, beta)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_lens_takes_no_finer_detail_than_its_aperture():
    beta, aperture = ball(N), 0.12
    found = image(microscope_geometry(aperture=aperture), beta, beta)
    f = np.fft.fftfreq(N, VOXEL_M)
    # The spectrum of an image contains differences of two frequencies inside the pupil.
    beyond = np.hypot(f[:, None], f) > 2 * aperture / hologram_geometry().beam.wavelength_m
    spectrum = np.abs(np.fft.fft2(found))
    assert beyond.any()
    assert spectrum[beyond].max() < 1e-10 * spectrum.max()
    assert np.abs(found - image(microscope_geometry(), beta, beta)).max() > 0.01


def test_a_scan_without_its_aperture_is_told_the_option(tmp_path):
    write_scan(tmp_path / "scan.cxi", blank(microscope_geometry()))
    with h5py.File(tmp_path / "scan.cxi", "r+") as file:
        del file[APERTURE]
    with pytest.raises(ScanError, match=r"\(--values numerical_aperture\)"):
        read_scan(tmp_path / "scan.cxi")


@pytest.mark.parametrize(
    ("distances_m", "delta_within", "beta_within"),
    # Phase does not show in focus: β 0.084; a focal series: δ 0.027, β 0.025.
    [((0.0,), None, 0.12), ((-25e-9, 0.0, 25e-9), 0.06, 0.06)],
)
def test_the_volume_comes_back_from_simulated_frames(tmp_path, distances_m, delta_within, beta_within):
    delta = ball(N)
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["delta"], file["beta"] = delta, 0.5 * delta
        file.attrs["voxel_size_m"] = VOXEL_M
    described = tmp_path / "scan.cxi"
    write_scan(described, blank(microscope_geometry(distances_m=distances_m)))
    frames = tmp_path / "frames.cxi"
    simulate_file(tmp_path / "volume.h5", described, frames, Simulation(), on_view=lambda done, views: None)
    with h5py.File(frames) as file:
        assert file[APERTURE][()] == 0.25
    found = rebuild(read_scan(frames))
    assert relative_error(found.beta, 0.5 * delta) < beta_within
    if delta_within:
        assert relative_error(found.delta, delta) < delta_within
