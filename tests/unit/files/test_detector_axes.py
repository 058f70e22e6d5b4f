"""Directions of a detector's axes: basis vectors of any rotation, and the flips of NXtomo."""

import h5py
import numpy as np
import pytest

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import read_scan
from bluesky_multislice.recipe import ScanValues

N, PITCH = 16, 55e-6
DETECTOR, ANGLE = "entry_1/instrument_1/detector_1", "entry_1/sample_1/rotation_angle"
VECTORS = f"{DETECTOR}/basis_vectors"
Y, X = (axis.ravel() * 2e-7 for axis in np.indices((4, 4)))
COMMON = {
    "entry_1/instrument_1/source_1/energy": 1.6e-15,
    f"{DETECTOR}/data": np.random.default_rng(0).poisson(100, (N, 8, 8)).astype(np.uint16),
    f"{DETECTOR}/distance": 1.0,
    f"{DETECTOR}/x_pixel_size": PITCH,
    f"{DETECTOR}/y_pixel_size": PITCH,
}
CXI = COMMON | {
    "entry_1/technique": "ptychography",
    f"{DETECTOR}/regime": "far_field",
    "entry_1/sample_1/geometry_1/translation": np.stack([X, Y, 0 * X], 1),
}
TOMO = COMMON | {"entry_1/definition": "NXtomo", ANGLE: np.linspace(0, 180, N, endpoint=False)}
ORIENTED = {
    "as_is": ((1, 0), (0, 1)),
    "flip_y": ((-1, 0), (0, 1)),
    "flip_x": ((1, 0), (0, -1)),
    "flip_yx": ((-1, 0), (0, -1)),
    "transpose": ((0, 1), (1, 0)),
    "transpose_flip_y": ((0, 1), (-1, 0)),
    "transpose_flip_x": ((0, -1), (1, 0)),
    "transpose_flip_yx": ((0, -1), (-1, 0)),
}


def vectors(degrees, orientation="as_is", *, shear=0.0, tilt=0.0, length=(PITCH, PITCH), dtype=np.float64):
    """Basis vectors (3, 2) of a detector that is oriented and then rotated from x towards y."""
    rotation, tilt = np.radians(degrees), np.radians(tilt)
    columns = []
    for (y, x), size, extra in zip(ORIENTED[orientation], length, (0.0, np.radians(shear)), strict=True):
        turn = rotation + extra
        along = np.array([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn), 0])
        along = along * [np.cos(tilt), 1, 1] + [0, 0, np.sin(tilt) * along[0]]
        columns.append(size * along)
    return np.stack(columns, axis=1).astype(dtype)


def write(path, values):
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            if value is not None:
                file[name] = value
    return path


def read(tmp_path, basis, values=None, **replaced):
    number = len(list(tmp_path.iterdir()))
    return read_scan(
        write(tmp_path / f"scan{number}.cxi", CXI | {VECTORS: basis} | replaced), values=values or ScanValues()
    )


@pytest.mark.parametrize("degrees", [-9.9, -3.0, 0.02, 5.0, 10.0])
@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("transposed", [False, True])
def test_positions_follow_a_detector_that_is_rotated_a_little(tmp_path, degrees, orientation, transposed):
    basis = vectors(degrees, orientation, length=(PITCH, 2 * PITCH))
    found = read(tmp_path, basis.T if transposed else basis)
    assert found.frames.orientation == orientation
    turn = np.radians(degrees)
    # A position is the same place, expressed along the detector's axes.
    y_axis, x_axis = np.array([np.cos(turn), -np.sin(turn)]), np.array([np.sin(turn), np.cos(turn)])
    place = np.stack([-Y, -X], 1)
    np.testing.assert_allclose(found.geometry.position_m, np.stack([place @ y_axis, place @ x_axis], 1), atol=1e-15)
    assert any(f"rotated in its plane by {degrees:.3g}°" in warning for warning in found.warnings)


@pytest.mark.parametrize("degrees", [-44.0, -20.0, -10.5, 11.0, 20.0, 29.0, 44.0, 110.0, 160.0])
def test_a_large_rotation_is_refused(tmp_path, degrees):
    nearest = degrees - 90 * round(degrees / 90)
    with pytest.raises(ScanError, match=rf"at most 10°.*rotation by {nearest:.2f}°.*basis_vectors"):
        read(tmp_path, vectors(degrees))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [(PITCH, PITCH), (1, 1), (1, 3)])
def test_rounded_vectors_are_not_rotated(tmp_path, dtype, length):
    found = read(tmp_path, vectors(1e-5, "flip_y", length=length, dtype=dtype))
    assert found.frames.orientation == "flip_y"
    np.testing.assert_allclose(found.geometry.position_m, np.stack([-Y, -X], 1))
    assert not any("rotated" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("basis", "why"),
    [
        (vectors(0, shear=3), "between them is 8[67]"),
        (vectors(0, shear=90), "between them is"),
        (vectors(0, tilt=5), "tilted by 5.0° towards the beam"),
        (vectors(4, tilt=40), "tilted by"),
        (np.full((3, 2), np.nan), "not two directions"),
        (np.eye(3), "not two directions"),
    ],
)
def test_a_sheared_or_tilted_detector_is_refused(tmp_path, basis, why):
    with pytest.raises(ScanError, match=f"perpendicular to the beam.*{why}"):
        read(tmp_path, basis)


def test_a_small_tilt_is_noted(tmp_path):
    found = read(tmp_path, vectors(0, tilt=1))
    assert sum("tilt of 1.00°" in warning for warning in found.warnings) == 1


def test_the_recipe_replaces_wrong_basis_vectors_and_may_give_the_rotation(tmp_path):
    upright = read(tmp_path, vectors(6), ScanValues(orientation="flip_x"))
    np.testing.assert_allclose(upright.geometry.position_m, np.stack([-Y, -X], 1))
    asked = read(tmp_path, None, ScanValues(detector_rotation_deg=90 / 15))
    given = read(tmp_path, vectors(6))
    np.testing.assert_allclose(asked.geometry.position_m, given.geometry.position_m, atol=1e-15)
    with pytest.raises(ScanError, match=r"at most 10°.*recipe scan.detector_rotation_deg"):
        read(tmp_path, None, ScanValues(detector_rotation_deg=12))


def test_a_rotation_axis_must_remain_a_column(tmp_path):
    angles = {ANGLE: np.linspace(0, 170, N)}
    with pytest.raises(ScanError, match=r"for several angles.*8.00°, .* pixels over the height"):
        read(tmp_path, vectors(8), **angles)
    assert len(np.unique(read(tmp_path, vectors(0.1), **angles).geometry.angle_rad)) == N


def tomo(tmp_path, replaced, values=None):
    path = write(tmp_path / f"tomo{len(list(tmp_path.iterdir()))}.nx", TOMO | replaced)
    return read_scan(path, values=values or ScanValues())


@pytest.mark.parametrize(
    ("places", "orientation"),
    [
        ({"x_flipped": True, "y_flipped": False}, "flip_x"),
        ({"x_flipped": False, "y_flipped": True}, "flip_y"),
        ({"x_flipped": np.bool_(False), "y_flipped": 0}, "as_is"),
        ({"transformations/rx": 180.0}, "flip_y"),
        ({"transformations/ry": -180}, "flip_x"),
        ({"transformations/rx": 180.0, "transformations/ry": 180.0}, "flip_yx"),
        ({"transformations/rx": 180.0, "transformations/ry": 180.0, "transformations/rz": 180.0}, "as_is"),
    ],
)
def test_flips_of_an_nxtomo(tmp_path, places, orientation):
    found = tomo(tmp_path, {f"{DETECTOR}/{place}": value for place, value in places.items()})
    assert found.frames.orientation == orientation
    assert "orientation" not in found.absent


def test_another_rotation_of_an_nxtomos_detector_is_refused(tmp_path):
    turned = {f"{DETECTOR}/transformations/rz": 90.0}
    with pytest.raises(ScanError, match=r"rotated by 180°.*90 at .*transformations/rz"):
        tomo(tmp_path, turned)
    assert tomo(tmp_path, turned, ScanValues(orientation="transpose")).frames.orientation == "transpose"


@pytest.mark.parametrize("place", ["x_rotation_axis_pixel_position", "estimated_cor_from_motor"])
def test_the_axis_of_an_nxtomo_moves_the_positions(tmp_path, place):
    found = tomo(tmp_path, {f"{DETECTOR}/{place}": 3.5})
    np.testing.assert_allclose(found.geometry.position_m, np.tile([0, -3.5 * 55e-6], (N, 1)))
    assert "position_x" not in found.absent
    asked = tomo(tmp_path, {f"{DETECTOR}/{place}": 3.5}, ScanValues(axis_pixels=-2))
    np.testing.assert_allclose(asked.geometry.position_m[:, 1], 2 * 55e-6)
    assert "recipe scan.axis_pixels" in asked.sources["rotation_axis"]
