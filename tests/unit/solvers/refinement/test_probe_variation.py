"""A probe that changes along the scan: what it costs not to know, and what its shapes and weights are."""

import numpy as np
import pytest
import torch
from far_field_scan import FarFieldScan
from small_scan import rebuild

from bluesky_multislice.solvers import Schedule
from bluesky_multislice.solvers.refinement import ProbeVariation

BEAMS = [FarFieldScan(flicker=0.1, breathing=0.1, seed=seed) for seed in range(3)]
EPOCHS = 16


def rebuilt_with(beam, variations):
    """The solution with this number of variations of the probe."""
    settings = {"epochs": EPOCHS, "probe_modes": 1, "held_back_every": 10}
    return rebuild(beam.scan(focus_known=True), probe_variations=variations, **settings)


@pytest.fixture(scope="module")
def rebuilt():
    """For the first beam the solution without variations of the probe, and with two."""
    return {number: rebuilt_with(BEAMS[0], number) for number in (0, 2)}


def likeness(beam, solution):
    position_m = beam.scan(focus_known=True).geometry.position_m
    phase, absorption = (part[0].double().numpy() for part in (solution.delta, solution.beta))
    # One slice is one depth of field thick, 5.4·pixel²/λ, and k = 2π/λ.
    k_depth = 2 * np.pi * 5.4 * (20e-9 / 0.2e-9) ** 2
    return beam.likeness(np.exp(-k_depth * (1j * phase + absorption)), (position_m.min(0) + position_m.max(0)) / 2)


def test_a_beam_that_flickers_and_breathes_needs_it(rebuilt):
    assert rebuilt[2].held_back_r_factor < 0.75 * rebuilt[0].held_back_r_factor


@pytest.mark.matrix
def test_samples_in_such_beams_are_better_with_it():
    found = [{number: rebuilt_with(beam, number) for number in (0, 2)} for beam in BEAMS]
    for each in found:
        assert each[2].held_back_r_factor < 0.75 * each[0].held_back_r_factor
    # One sample of three is as good without it; the mean is not.
    without, varied = (
        np.mean([likeness(beam, each[number]) for beam, each in zip(BEAMS, found, strict=True)]) for number in (0, 2)
    )
    assert varied > without + 0.005


def test_the_weights_follow_the_beam_also_in_frames_held_back(rebuilt):
    weights = rebuilt[2].differences["variation_of_view"].numpy()
    gain = BEAMS[0].amplitude - BEAMS[0].amplitude.mean()
    for views in (slice(None), slice(9, None, 10)):
        coefficients, *_ = np.linalg.lstsq(weights, gain, rcond=None)
        assert np.corrcoef(weights[views] @ coefficients, gain[views])[0, 1] > 0.9


def test_shapes_are_orthogonal_and_of_the_probes_energy(rebuilt):
    found = rebuilt[2]
    parts = torch.view_as_real(found.differences["probe_variations"]).flatten(1).double()
    overlap = (parts @ parts.T).numpy()
    assert overlap[0, 0] == pytest.approx(overlap[1, 1], rel=1e-3)
    assert abs(overlap[0, 1]) < 1e-3 * overlap[0, 0]


def test_it_rests_until_its_epoch():
    probe = torch.ones(8, 8, dtype=torch.complex64)
    settings = {"views": 3, "number": 1, "relative_step": lambda epoch: 1.0}
    variation = ProbeVariation(probe, schedule=Schedule(2, 1.0, 1.0), **settings)
    assert not variation.active
    assert variation.gradients() == {}
    variation.end_epoch()
    assert variation.active
    variation.weights.grad = torch.tensor([[-1.0], [0.0], [0.0]])
    variation.count_views(np.array([0]))
    variation.step()
    assert variation.weights[0] > 0
    assert not variation.weights[1:].any()
