"""Frames that are saturated, dark, off the centre or wholly masked: what is left out, said or refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_scan import hologram_scan, pattern_scan, relative_error

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files import write_scan
from bluesky_multislice.jobs.provenance import JobRun, make_provenance
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct


def result_of(scan, **recipe):
    plan = make_plan(Recipe(**({"ranks": 1, "device": "cpu"} | recipe)), scan)
    with join_mesh("cpu") as mesh:
        return reconstruct(scan, plan, mesh)


def frames_of(scan):
    return scan.frames.read(np.arange(scan.geometry.views))


@pytest.fixture(scope="module")
def patterns():
    return pattern_scan(angles=2)[0]


def test_saturated_pixels_are_left_out_in_their_frames_and_counted():
    scan = hologram_scan()
    stored = frames_of(scan)
    stored[2, 3:6, 4], stored[5, 8, 8] = 1e9, 1e9
    spoilt = Scan(scan.geometry, Frames(stored, saturation=1e6))
    whole, masked = result_of(scan, epochs=5), result_of(spoilt, epochs=5, saturated="mask")
    assert relative_error(masked.solution.delta, whole.solution.delta) < 0.05
    assert masked.saturated_pixels == 4
    assert masked.warnings == ("4 saturated pixels of the frames to fit are excluded",)
    assert (whole.saturated_pixels, whole.warnings) == (0, ())
    with pytest.raises(FramesError, match=r"3 saturated.*view 2.*saturated = mask"):
        result_of(spoilt, epochs=5)


def test_a_pixel_saturated_in_every_frame_counts_as_masked(patterns):
    stored = frames_of(patterns)
    level = 0.9 * stored[:, 8, 8].min()
    cut = Scan(patterns.geometry, Frames(np.minimum(stored, level), saturation=level), patterns.probe)
    result = result_of(cut, epochs=2, saturated="mask")
    assert result.saturated_pixels >= len(stored)
    assert bool(result.solution.delta.isfinite().all())
    assert result.solution.history[-1].loss < result.solution.history[0].loss


@pytest.mark.parametrize(("factor", "relative"), [(0, "0"), (50, "50")])
@pytest.mark.parametrize(("view", "held_back_every"), [(3, 0), (4, 4)])
def test_a_dark_or_far_too_bright_frame_is_left_out_of_fit_and_validation(factor, relative, view, held_back_every):
    scan, others = hologram_scan(), np.delete(np.arange(8), view)
    stored = frames_of(scan)
    stored[view] *= factor
    result = result_of(Scan(scan.geometry, Frames(stored)), epochs=3, held_back_every=held_back_every)
    (warning,) = result.warnings
    assert "frames left out, over 10 times brighter or darker" in warning
    assert f"view {view} ({relative})" in warning
    known = np.isfinite(result.frame_r_factors)
    assert known.tolist() == [number != view for number in range(8)]
    whole = result_of(scan, epochs=3, held_back_every=held_back_every)
    np.testing.assert_allclose(result.frame_r_factors[others], whole.frame_r_factors[others], rtol=0.5)
    assert relative_error(result.solution.delta, whole.solution.delta) < 0.4


def test_dark_frames_among_too_few_others_are_said():
    scan = hologram_scan(angles=4)
    stored = frames_of(scan)
    stored[[0, 1]] = 0
    warnings = result_of(Scan(scan.geometry, Frames(stored)), epochs=1, held_back_every=3).warnings
    assert warnings == (
        "1 of the frames to fit are dark: remove them from the scan",
        "1 of the validation frames are dark: remove them from the scan",
    )


def test_patterns_off_the_centre_are_said(patterns):
    shifted = Frames(np.roll(frames_of(patterns), (0, 4, -3), (0, 1, 2)))
    (warning,) = result_of(replace(patterns, frames=shifted), epochs=1).warnings
    assert "pixels in y and" in warning
    assert "centre of mass" in warning
    assert result_of(patterns, epochs=1).warnings == ()


def test_a_mask_of_everything_is_refused():
    scan = hologram_scan()
    with pytest.raises(FramesError, match="At least one detector pixel must be good"):
        result_of(Scan(scan.geometry, Frames(frames_of(scan), mask=np.zeros((16, 16), bool))), epochs=1)


def test_warnings_and_counts_stay_in_the_provenance(tmp_path):
    scan = hologram_scan()
    stored = frames_of(scan)
    stored[2, 3, 4] = 1e9
    spoilt = Scan(scan.geometry, Frames(stored, saturation=1e6))
    write_scan(tmp_path / "scan.cxi", spoilt)
    result = result_of(spoilt, epochs=1, saturated="mask")
    job = {"recipe": {}, "plan": {}, "origin": {}}
    with join_mesh("cpu") as mesh:
        record = make_provenance(job, result, frames=tmp_path / "scan.cxi", run=JobRun(mesh, 1, 1))
    record = json.loads(json.dumps(record))
    assert record["warnings"] == list(result.warnings)
    assert len(record["warnings"]) == record["figures"]["saturated_pixels"] == 1
    assert record["figures"]["depths_of_field"] * record["figures"]["depth_of_field_m"] == pytest.approx(16e-9)
