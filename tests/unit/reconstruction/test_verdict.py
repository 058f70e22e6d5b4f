"""The verdict: good scans stay good, what is wrong is named, and the reference page shows the list of rules."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scan import hologram_geometry, pattern_scan, thick_scan

from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import add_photon_noise, reconstruct, rule_lines
from bluesky_multislice.reconstruction.verdict import Evidence, judge
from bluesky_multislice.solvers import Epoch, FrameMisfits, Solution

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "verdict.md"
VIEWS = 200


def verdict_of(scan, **recipe):
    plan = make_plan(Recipe(**({"ranks": 1, "device": "cpu"} | recipe)), scan)
    with join_mesh("cpu") as mesh:
        return reconstruct(scan, plan, mesh).verdict


def frames_of(scan):
    return scan.frames.read(np.arange(scan.geometry.views))


def misfits(residual, structure):
    """Misfits of frames of 100 pixels of intensity one, given per pixel."""
    full = np.full(VIEWS, 100.0)
    return FrameMisfits(residual * full, full, structure * full, residual**4 * full, full)


def judged(
    *, residual=0.05, structure=1e-5, empty=(0.2, 1e-2), r_factor=0.05, losses=(1.0, 0.5), turn=np.pi, **solution
):
    """Verdict on a fit with these misfits; half of the frames were compared with an empty sample."""
    some = np.arange(VIEWS) % 2
    own, held = misfits(residual, structure), np.arange(VIEWS) % 20 == 0
    nothing = torch.zeros(1, 1, 1)
    found = Solution(
        delta=nothing,
        beta=nothing,
        probe=nothing,
        **({"status": "converged", "advice": "", "best_epoch": len(losses)} | solution),
        history=tuple(Epoch(number, loss, loss, 1.0) for number, loss in enumerate(losses, start=1)),
        r_factor=r_factor,
        held_back_r_factor=None,
        frame_misfits=own,
    )
    without = FrameMisfits(*(part * some for part in vars(misfits(*empty)).values()))
    geometry = replace(hologram_geometry(angles=VIEWS), angle_rad=np.arange(VIEWS) * turn / VIEWS)
    return judge(Evidence(found, geometry, held, without))


def test_the_reference_page_shows_the_rules():
    lines = PAGE.read_text().splitlines()
    expected = list(rule_lines())
    start = lines.index(expected[0])
    assert lines[start : start + len(expected)] == expected


def test_a_usual_fit_is_good_and_noise_alone_is_no_fault():
    assert judged().as_dict() == {"verdict": "good", "findings": []}
    assert judged(residual=0.9, structure=1e-2, empty=(0.9, 2e-2), r_factor=0.9).grade == "good"


@pytest.mark.parametrize(
    ("evidence", "grade", "words"),
    [
        ({"status": "diverged"}, "failed", "diverged"),
        ({"status": "stalled"}, "failed", "hardly better than by an empty volume"),
        ({"r_factor": 98.0, "structure": 0.5, "empty": (0.2, 1)}, "failed", "R-factor is 98"),
        ({"structure": 1e-2}, "failed", "99% of the contrast of the validation frames"),
        ({"structure": 6e-3}, "doubtful", "59% of the contrast of the validation frames"),
        ({"structure": 6e-3, "losses": (1.0, 0.9, 0.8, 0.7), "status": "epochs_spent"}, "doubtful", "use more epochs"),
        ({"structure": 6e-3, "losses": (1.0, 0.7, 0.68, 0.67), "status": "epochs_spent"}, "doubtful", "contradict"),
        ({"structure": 6e-3, "turn": 2 * np.pi}, "doubtful", "half acquisition"),
        ({"losses": (0.5, *[1.0] * 20), "best_epoch": 1}, "doubtful", "rises from epoch 1"),
        ({"residual": np.where(np.arange(VIEWS) < 10, 0.3, 0.05)}, "doubtful", "consecutive views, 0 to 9"),
        ({"residual": np.where(np.arange(VIEWS) == 7, 0.3, 0.05)}, "good", "1 of 200 frames do not fit: view 7"),
    ],
)
def test_every_rule_names_what_is_wrong(evidence, grade, words):
    verdict = judged(**evidence)
    assert verdict.grade == grade
    assert words in " ".join(str(finding) for finding in verdict.findings)
    assert all(finding.advice for finding in verdict.findings)


def test_good_scans_are_good():
    scan = thick_scan(n=16, angles=40)[0]
    noisy = Scan(scan.geometry, Frames(add_photon_noise(frames_of(scan), scale=1000, seed=0)))
    assert verdict_of(noisy, epochs=12).as_dict() == {"verdict": "good", "findings": []}
    patterns = pattern_scan(angles=3)[0]
    assert verdict_of(patterns, epochs=8).grade == "good"


def test_holograms_in_another_order_than_their_angles_are_not_good():
    scan = thick_scan(n=24, angles=40)[0]
    order = np.random.default_rng(0).permutation(40)
    verdict = verdict_of(Scan(scan.geometry, Frames(frames_of(scan)[order])), epochs=12)
    assert verdict.grade != "good"
    text = " ".join(map(str, verdict.findings))
    assert "validation frames" in text
    assert "frames, angles and positions belong together" in text
    assert "half acquisition" not in text


def test_the_angle_whose_frames_do_not_fit_is_named():
    scan = pattern_scan(angles=4)[0]
    stored = frames_of(scan)
    stored[50:75] = stored[50:75][::-1].copy()
    verdict = verdict_of(replace(scan, frames=Frames(stored)), epochs=8)
    assert verdict.grade == "doubtful"
    assert "they have in common: the angle 90°" in " ".join(map(str, verdict.findings))
