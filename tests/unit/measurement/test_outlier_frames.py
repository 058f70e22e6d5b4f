"""Frames without light and far too bright ones are found; samples that move into the beam are no fault."""

from dataclasses import replace

import numpy as np
import pytest
from small_scan import hologram_geometry

from bluesky_multislice.measurement import outlier_frames


def grid_geometry(side=12, angles=1):
    """Positions on a square grid, line by line, at each angle."""
    line = np.arange(side) * 1e-9
    place = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return replace(
        hologram_geometry(angles=angles * side * side),
        angle_rad=np.repeat(np.arange(angles) * 0.3, side * side),
        position_m=np.tile(place, (angles, 1)),
    )


def found(intensity, geometry):
    return np.flatnonzero(outlier_frames(np.asarray(intensity, float), geometry)).tolist()


@pytest.mark.parametrize("factor", [0, 0.05, 50])
@pytest.mark.parametrize("views", [[0], [17], [39], [9, 10, 11, 12, 13]])
def test_outliers_of_an_angular_series_are_found(factor, views):
    intensity = 100 * np.exp(-0.3 * np.sin(np.arange(40) / 10))
    intensity[views] *= factor
    assert found(intensity, hologram_geometry(angles=40)) == views


@pytest.mark.parametrize("factor", [0, 50])
@pytest.mark.parametrize("views", [[0], [143], [60, 61, 62], list(range(24, 36)), [200]])
def test_outliers_of_a_raster_are_found(factor, views):
    geometry = grid_geometry(angles=2)
    intensity = np.full(geometry.views, 7.0)
    intensity[views] *= factor
    assert found(intensity, geometry) == views


@pytest.mark.parametrize("ratio", [1e-3, 1e3])
def test_a_sample_that_moves_into_the_beam_is_kept(ratio):
    series = np.where(np.arange(40) < 15, 1.0, ratio)
    assert found(series, hologram_geometry(angles=40)) == []
    y, x = np.divmod(np.arange(144), 12)
    for inside in (x > 6, (np.abs(y - 5) < 2) & (np.abs(x - 5) < 2), np.abs(x - y) < 2, np.hypot(y - 4, x - 8) < 2.5):
        assert found(np.where(inside, ratio, 1.0), grid_geometry()) == []


def test_distances_and_exposures_in_turn_are_no_fault():
    geometry = hologram_geometry(angles=40)
    apart = replace(geometry, distance_m=np.where(np.arange(40) % 2, 30e-9, 60e-9))
    intensity = np.where(np.arange(40) % 2, 1.0, 40.0)
    assert found(intensity, apart) == []
    assert found(intensity, geometry) == []
    intensity[7] = 0
    assert found(intensity, apart) == [7]


def test_dark_scans_repeated_positions_and_a_few_frames_are_kept():
    assert found(np.where(np.arange(40) % 9, 0.0, 1.0), hologram_geometry(angles=40)) == []
    assert found([0, 1, 1, 1], hologram_geometry(angles=4)) == []
    repeated = replace(grid_geometry(), position_m=np.zeros((144, 2)) + 1e-9 * (np.arange(144) < 100)[:, None])
    intensity = np.ones(144)
    intensity[3] = 0
    assert found(intensity, repeated) == [3]


@pytest.mark.parametrize("dark", [0.0, 5e-4])
def test_frames_of_a_beam_that_was_off_for_long_are_empty(dark):
    """Most of the neighbours of such a frame are empty as well."""
    intensity = np.full(144, 7.0)
    intensity[40:100] = dark
    geometry = grid_geometry()
    assert found(intensity, geometry) == list(range(40, 100))
    series = np.full(200, 1000.0)
    series[60:140] = dark
    assert found(series, hologram_geometry(angles=200)) == list(range(60, 140))
