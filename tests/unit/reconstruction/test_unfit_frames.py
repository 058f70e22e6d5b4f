"""Frames that do not fit are outliers among their kind, and what they share is told."""

from dataclasses import replace

import numpy as np
import pytest
from small_scan import hologram_geometry

from bluesky_multislice.reconstruction.unfit_frames import find_unfit_frames, shared_traits


def raster(angles=4, side=6):
    line = np.arange(side) * 1e-9
    place = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return replace(
        hologram_geometry(angles=angles * side * side),
        angle_rad=np.repeat(np.radians(np.arange(angles) * 45.0), side * side),
        position_m=np.tile(place, (angles, 1)),
    )


GEOMETRY = raster()
NONE_HELD = np.zeros(GEOMETRY.views, bool)
Y, X = np.divmod(np.arange(GEOMETRY.views) % 36, 6)


def spread_r_factors(views=GEOMETRY.views):
    return 0.05 * np.exp(0.15 * np.random.default_rng(0).normal(size=views))


def test_outliers_are_found_with_their_r_factors():
    r_factors = spread_r_factors()
    r_factors[[3, 100]], r_factors[7] = [0.4, np.inf], np.nan
    unfit = find_unfit_frames(r_factors, NONE_HELD, GEOMETRY)
    assert unfit.views.tolist() == [3, 100]
    assert unfit.text.startswith("view 3 (0°, R-factor 0.4), view 100 (90°, R-factor inf)")


def test_a_usual_spread_and_worse_validation_frames_are_no_outliers():
    for seed in range(5):
        r_factors = 0.05 * np.exp(0.2 * np.random.default_rng(seed).normal(size=GEOMETRY.views))
        assert not len(find_unfit_frames(r_factors, NONE_HELD, GEOMETRY).views)
    held = np.arange(GEOMETRY.views) % 20 == 0
    assert not len(find_unfit_frames(np.where(held, 4, 1) * spread_r_factors(), held, GEOMETRY).views)
    exact = np.full(GEOMETRY.views, 1e-3)
    assert not len(find_unfit_frames(exact, NONE_HELD, GEOMETRY).views)


def test_a_distance_whose_frames_fit_worse_is_no_outlier():
    distance_m = np.where(np.arange(GEOMETRY.views) % 3, 1.0, 2.0)
    r_factors = np.where(distance_m > 1, 5, 1) * spread_r_factors()
    geometry = replace(GEOMETRY, distance_m=distance_m)
    assert not len(find_unfit_frames(r_factors, NONE_HELD, geometry).views)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        (np.arange(36, 72)[::2], ["the angle 45° (18 of its 36 frames)"]),
        (np.arange(5), ["the angle 0° (5 of its 36 frames)", "the side of the scanned area with the smallest y"]),
        (np.arange(30, 60), ["consecutive views, 30 to 59"]),
        (np.arange(70, 144), ["consecutive views, 70 to 143 at the end of the scan"]),
        (np.flatnonzero((Y > 3) & (X < 2)), ["the corner of the scanned area with the largest y and smallest x"]),
        (np.flatnonzero(X > 3), ["the side of the scanned area with the largest x"]),
        (np.array([3, 50, 111]), []),
        (np.array([3, 4]), []),
    ],
)
def test_what_frames_have_in_common_is_told(views, words):
    assert shared_traits(views, GEOMETRY) == words


def test_frames_of_one_angle_without_positions_share_their_time_only():
    geometry = replace(hologram_geometry(angles=40), angle_rad=np.zeros(40))
    assert shared_traits(np.arange(8), geometry) == ["consecutive views, 0 to 7 at the start of the scan"]
    assert shared_traits(np.arange(40), geometry) == []
