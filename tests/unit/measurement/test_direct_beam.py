"""The direct beam is found in mean patterns with gaps, beam stops, hot pixels and backgrounds."""

import numpy as np
import pytest
from scipy import ndimage, special

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement.direct_beam import find_direct_beam


def pattern(shape=(200, 240), centre=(92.3, 140.8), pupil=18.0, stop=0.0, tail=3e-3, photons=500.0, seed=0):
    """Mean pattern of a lens with a central stop, speckles around it, on a background, with counting noise."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    y, x = y - centre[0], x - centre[1]
    r = np.hypot(y, x)
    lens = special.expit(pupil - r) - (special.expit(stop - r) if stop else 0)
    random = np.random.default_rng(seed)
    speckle = ndimage.gaussian_filter(random.uniform(0, 1, shape), 2)
    tails = tail * (1 + 3 * (speckle / speckle.mean() - 1)).clip(0) / (1 + (r / pupil) ** 3)
    return random.poisson(photons * (lens + tails) * 16 + 0.3) / 16


def found(mean, good=None):
    beam = find_direct_beam(mean, np.ones(mean.shape, bool) if good is None else good)
    return np.array(beam.centre)


@pytest.mark.parametrize("stop", [0.0, 7.0])
@pytest.mark.parametrize(
    ("shape", "centre", "pupil"),
    [
        ((200, 240), (92.3, 140.8), 18.0),
        ((129, 128), (64.0, 64.5), 10.0),
        ((514, 1030), (400.2, 133.7), 40.0),
        ((64, 64), (25.5, 40.0), 8.5),
    ],
)
def test_the_middle_of_the_lens_is_found(shape, centre, pupil, stop):
    np.testing.assert_allclose(found(pattern(shape, centre, pupil, stop)), centre, atol=0.5)


def test_a_beam_of_a_few_pixels_is_found():
    y, x = np.mgrid[:256, :256]
    mean = 1e5 * np.exp(-((y - 100) ** 2 + (x - 171) ** 2) / 8) + 20 / (1 + np.hypot(y - 100, x - 171) / 10) ** 2
    np.testing.assert_allclose(found(mean), (100, 171), atol=0.5)


def test_masked_gaps_do_not_move_it():
    mean, good = pattern(), np.ones((200, 240), bool)
    good[:, 145:152] = good[80:84] = False
    np.testing.assert_allclose(found(np.where(good, mean, 0), good), (92.3, 140.8), atol=0.7)


def test_a_beam_stop_with_its_arm_does_not_move_it():
    """A shadow that no mask tells, round the direct beam and towards the edge."""
    y, x = np.mgrid[:200, :240]
    shadow = (np.hypot(y - 96, x - 139) < 12) | ((np.abs(y - 96) < 3) & (x > 139))
    mean = np.where(shadow, 0, pattern(pupil=25, tail=0.05))
    np.testing.assert_allclose(found(mean), (92.3, 140.8), atol=1.5)


def test_hot_pixels_do_not_attract_it():
    mean = pattern()
    mean[20, 30] = mean[150, 200] = 1e7
    mean[60:62, 60:62] = 1e6
    np.testing.assert_allclose(found(mean), (92.3, 140.8), atol=0.5)


@pytest.mark.parametrize("mean", [np.zeros((64, 64)), np.random.default_rng(0).poisson(3, (64, 64)) * 1.0])
def test_a_pattern_without_a_beam_is_refused(mean):
    with pytest.raises(FramesError, match=r"direct beam must be visible.*frames.centre"):
        found(mean)
