import json

import numpy as np
import pytest

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, VolumeGrid, depth_of_field_m


def scan_geometry(views=3, *, focus_m=None, regime="near_field", **changed):
    values = {
        "technique": "holography",
        "beam": Beam(1e-10, focus_m),
        "detector": Detector((40, 50), (2e-6, 1e-6), regime),
        "distance_m": np.full(views, 0.3),
        "angle_rad": np.linspace(0, 1, views),
        "position_m": np.zeros((views, 2)),
    }
    return ScanGeometry(**(values | changed))


def test_parallel_beam_keeps_distance_and_pixel():
    geometry = scan_geometry()
    assert geometry.magnification == pytest.approx([1, 1, 1])
    assert geometry.effective_distance_m == pytest.approx([0.3, 0.3, 0.3])
    assert geometry.object_pixel_m == pytest.approx((2e-6, 1e-6))


def test_cone_beam_follows_the_fresnel_scaling_theorem():
    geometry = scan_geometry(focus_m=0.1)
    assert geometry.magnification == pytest.approx([4, 4, 4])
    assert geometry.effective_distance_m == pytest.approx([0.075] * 3)
    assert geometry.object_pixel_m == pytest.approx((0.5e-6, 0.25e-6))


def test_far_field_pixel_is_wavelength_times_distance_over_width():
    pitch = scan_geometry(regime="far_field").object_pixel_m
    assert pitch == pytest.approx((1e-10 * 0.3 / (40 * 2e-6), 1e-10 * 0.3 / (50 * 1e-6)))


def test_holograms_of_several_magnifications_share_the_finest_pixel():
    geometry = scan_geometry(focus_m=(0.1, 0.1, 0.2), distance_m=np.array([0.3, 0.3, 0.2]))
    assert geometry.magnification == pytest.approx([4, 4, 2])
    assert geometry.object_pixel_m == pytest.approx((0.5e-6, 0.25e-6))
    assert geometry.field_shape == (80, 100)
    coarse = geometry.select(np.array([2]))
    assert coarse.beam.focus_distance_m == (0.2,)
    assert coarse.field_shape == coarse.detector.shape


@pytest.mark.parametrize(("focus_m", "regime"), [((0.1, 0.1), "near_field"), ((0.1, 0.1, 0.2), "far_field")])
def test_focus_distances_that_belong_to_no_view_are_refused(focus_m, regime):
    with pytest.raises(ScanError, match="one for each view in the near field"):
        scan_geometry(focus_m=focus_m, regime=regime)


def test_patterns_of_several_pixel_sizes_are_refused():
    geometry = scan_geometry(regime="far_field", focus_m=None, distance_m=np.array([0.3, 0.3, 0.6]))
    with pytest.raises(ScanError, match="one pixel size"):
        _ = geometry.object_pixel_m


def test_parallel_beam_may_have_several_distances():
    geometry = scan_geometry(distance_m=np.array([0.3, 0.4, 0.6]))
    assert geometry.object_pixel_m == pytest.approx((2e-6, 1e-6))


def test_select_keeps_each_view_whole():
    geometry = scan_geometry(
        distance_m=np.array([0.1, 0.2, 0.3]), position_m=np.arange(6.0).reshape(3, 2), focus_m=None
    )
    chosen = geometry.select(np.array([2, 0]))
    assert chosen.views == 2
    assert chosen.distance_m.tolist() == [0.3, 0.1]
    assert chosen.angle_rad.tolist() == [1.0, 0.0]
    assert chosen.position_m.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert chosen.beam == geometry.beam
    assert chosen.detector == geometry.detector


@pytest.mark.parametrize(
    "changed",
    [
        {"distance_m": np.ones(2)},
        {"angle_rad": np.zeros((3, 1))},
        {"position_m": np.zeros((2, 2))},
        {"position_m": np.zeros((3, 3))},
    ],
)
def test_arrays_of_other_lengths_are_refused(changed):
    with pytest.raises(ScanError, match="one angle, one distance and one position"):
        scan_geometry(**changed)


def test_scan_without_views_is_refused():
    with pytest.raises(ScanError, match="at least one view"):
        scan_geometry(0)


@pytest.mark.parametrize("focus_m", [0.0, -0.3, -0.1, np.nan, np.inf])
def test_focus_on_the_sample_or_between_it_and_the_detector_is_refused(focus_m):
    with pytest.raises(ScanError, match="The focus must lie"):
        scan_geometry(focus_m=focus_m)


def test_patterns_may_come_from_a_focus_between_the_sample_and_the_detector():
    geometry = scan_geometry(focus_m=-0.1, regime="far_field")
    np.testing.assert_array_equal(geometry.effective_distance_m, geometry.distance_m)


def test_focus_behind_the_detector_makes_the_image_smaller():
    assert scan_geometry(focus_m=-0.5).magnification == pytest.approx([0.4, 0.4, 0.4])


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["wavelength", "detector distance", "detector pixel size"])
def test_lengths_that_no_instrument_has_are_refused(name, bad):
    changed = {
        "wavelength": {"beam": Beam(bad)},
        "detector distance": {"distance_m": np.array([0.3, bad, 0.3])},
        "detector pixel size": {"detector": Detector((4, 4), (1e-6, bad), "near_field")},
    }[name]
    with pytest.raises(ScanError, match=f"The {name} must be positive") as caught:
        scan_geometry(**changed)
    assert "metadata" in caught.value.remedy


@pytest.mark.parametrize("name", ["angle", "position"])
def test_a_view_without_a_reading_is_named(name):
    values = scan_geometry()
    array = {"angle": values.angle_rad, "position": values.position_m}[name].copy()
    array[1] = np.nan
    field = {"angle": "angle_rad", "position": "position_m"}[name]
    with pytest.raises(ScanError, match=f"Every {name} must be a finite number.*1 views.*first is view 1"):
        scan_geometry(**{field: array})


def test_volume_grid_round_trip_through_json():
    grid = VolumeGrid((4, 5, 6), (3e-8, 2e-8, 1e-8))
    back = VolumeGrid.from_dict(json.loads(json.dumps(grid.as_dict())))
    assert back == grid
    assert back.thickness_m == pytest.approx(1.2e-7)


def test_depth_of_field():
    assert depth_of_field_m(10e-9, 1e-10) == pytest.approx(5.4e-6)
