"""What happens before the fit: scale, first probe and its modes, frames that cannot be used."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from small_scan import ball, blank, hologram_geometry, hologram_scan, pattern_scan, rebuild, relative_error

from bluesky_multislice import optics
from bluesky_multislice.choices import Propagation
from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct


@pytest.fixture(scope="module")
def patterns():
    return pattern_scan()


def brighter(scan, factor):
    """The same scan with frames in other units, its probe as it was."""
    return replace(scan, frames=Frames(scan.frames.read(np.arange(scan.geometry.views)) * factor))


def test_far_field_ptychography_without_a_probe_recovers_the_sample(patterns):
    scan, truth = patterns
    assert relative_error(rebuild(replace(scan, probe=None)).delta, truth) < 0.35  # 0.26 was measured


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_the_unit_of_the_frames_does_not_matter(patterns, factor):
    scan, truth = patterns
    solution = rebuild(brighter(scan, factor), epochs=8)
    assert relative_error(solution.delta, truth) < 0.4
    energy = float(solution.probe.abs().square().sum())
    assert energy == pytest.approx(factor * float(np.square(np.abs(scan.probe)).sum()), rel=0.25)


def test_a_given_probe_that_is_not_refined_keeps_its_energy(patterns):
    scan, _ = patterns
    solution = rebuild(brighter(scan, 100), epochs=1, refine_probe=False)
    np.testing.assert_allclose(solution.probe, scan.probe, rtol=1e-4, atol=1e-5)


def test_missing_modes_are_added_to_the_probe_as_weak_ones(patterns):
    scan, _ = patterns
    solution = rebuild(scan, probe_modes=3, epochs=1)
    powers = solution.probe.abs().square().sum((1, 2)).tolist()
    assert len(powers) == 3
    assert max(powers[1:]) < 0.1 * powers[0]
    assert rebuild(replace(scan, probe=None), epochs=1).probe.shape[0] == 1


def test_a_probe_larger_than_the_window_is_refused(patterns):
    scan, _ = patterns
    with pytest.raises(ScanError, match="fit into the window"):
        rebuild(replace(scan, probe=np.ones((1, 18, 18), np.complex64)))


def test_frames_without_light_are_refused():
    with pytest.raises(FramesError, match="light"):
        rebuild(blank(hologram_geometry()))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-1.0, "negative"), (1e9, "saturated")])
@pytest.mark.parametrize("view", [0, 5])
def test_a_bad_pixel_is_refused_in_fitted_and_held_back_frames(value, word, view):
    scan = hologram_scan()
    stored = scan.frames.read(np.arange(8))
    stored[view, 3, 4] = value
    with pytest.raises(FramesError, match=f"1 {word}.* in view {view}"):
        rebuild(Scan(scan.geometry, Frames(stored, saturation=1e6)), held_back_every=4)


def test_a_bad_pixel_behind_the_mask_does_no_harm():
    scan, mask = hologram_scan(), np.ones((16, 16), bool)
    stored = scan.frames.read(np.arange(8))
    stored[:, 3, 4], mask[3, 4] = np.nan, False
    whole, masked = rebuild(scan, epochs=5), rebuild(Scan(scan.geometry, Frames(stored, mask=mask)), epochs=5)
    assert relative_error(masked.delta, whole.delta) < 0.3


@pytest.mark.parametrize("propagation", get_args(Propagation))
def test_every_propagation_fits_both_techniques(patterns, propagation):
    for scan, epochs in ((hologram_scan(), 10), (patterns[0], 2)):
        history = rebuild(scan, propagation=propagation, epochs=epochs).history
        assert history[-1].loss < 0.5 * history[0].loss


def test_finer_pixels_of_the_model_recover_the_sample_from_summed_frames():
    fine, truth = hologram_scan(n=32), ball(32)
    summed = fine.frames.read(np.arange(8)).reshape(8, 16, 2, 16, 2).sum((2, 4))
    detector = replace(fine.geometry.detector, shape=(16, 16), pixel_size_m=(2e-9, 2e-9))
    scan = Scan(replace(fine.geometry, detector=detector), Frames(summed))
    finer, coarse = (
        rebuild(scan, oversampling=number, optimiser="adam", epochs=30, total_variation=0.0) for number in (2, 1)
    )
    assert finer.delta.shape == (32, 32, 32)
    assert relative_error(finer.delta, truth) < 0.7
    assert finer.r_factor < coarse.r_factor


def test_a_given_near_field_probe_is_made_finer_with_the_pixels():
    scan = replace(hologram_scan(), probe=np.ones((1, 16, 16), np.complex64))
    same, finer = (rebuild(scan, oversampling=number, refine_probe=False, epochs=1).probe for number in (1, 2))
    assert finer.shape[-2:] == (2 * same.shape[-1], 2 * same.shape[-1])
    assert float(finer.abs().square().sum()) == pytest.approx(float(same.abs().square().sum()), rel=1e-4)


def test_a_blurring_detector_is_allowed_for():
    sharp = hologram_scan()
    transfer = optics.point_spread_transfer((16, 16), 1.0)
    frames = optics.blur(torch.from_numpy(sharp.frames.read(np.arange(8))), transfer).numpy()
    scan = Scan(sharp.geometry, Frames(frames))
    known, unknown = (rebuild(scan, point_spread_pixels=width).delta for width in (1.0, 0.0))
    assert relative_error(known, ball()) < 0.8 * relative_error(unknown, ball())


def test_every_epoch_is_reported():
    scan, epochs = hologram_scan(angles=4), []
    with join_mesh("cpu") as mesh:
        plan = make_plan(Recipe(ranks=1, device="cpu", epochs=3), scan)
        result = reconstruct(scan, plan, mesh, report=epochs.append)
    assert tuple(epochs) == result.solution.history
    assert result.plan is plan
    assert result.geometry is scan.geometry
