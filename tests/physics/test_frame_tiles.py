"""Tiles of frames with a halo give the same frames and gradients as whole frames; on ranks, see test_ranks.py."""

import numpy as np
import pytest
import torch
from random_objects import OBJECTS
from tiled_holograms import (
    ANGLES_RAD,
    HALO,
    HEIGHT,
    PIXEL_M,
    WAVELENGTH_M,
    WIDTH,
    holograms,
    in_tiles,
    model_of,
    thick_object,
    turned_object,
    uneven_probe,
)

from bluesky_multislice.errors import ScanError
from bluesky_multislice.models import Adjustments, FrameTiles, even_tiles
from bluesky_multislice.optics import halo_pixels

VIEWS = range(len(ANGLES_RAD))


def distance(found, expected):
    """Relative distance ‖a − b‖ / ‖b‖."""
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize(("fresnel", "accuracy"), [(4, 0.02), (7, 0.06), (10, 0.06), (10, 0.02)])
def test_the_halo_keeps_the_accuracy_that_was_asked_for(kind, fresnel, accuracy):
    """√(λL) in pixels from the entrance plane to the detector; a third of it in the object."""
    way_m = (fresnel * PIXEL_M) ** 2 / WAVELENGTH_M
    length_m, height = way_m / 3, 384
    geometry = holograms(height, way_m - length_m / 2, np.zeros(1), 0.0)
    delta = thick_object(kind, 0.5, height, length_m).requires_grad_()
    whole = model_of(geometry, length_m=length_m)
    probe = uneven_probe(whole)
    frame, empty = whole(delta, 0.1 * delta, probe, [0]), whole(0 * delta, None, probe, [0])
    halo = halo_pixels(accuracy, wavelength_m=WAVELENGTH_M, distance_m=way_m, pixel_size_m=PIXEL_M)
    tiles = even_tiles(height, 3, max(halo, 4 * fresnel))
    cut = in_tiles(geometry, tiles, delta, probe, length_m=length_m)
    assert 0 < float((cut - frame).detach().norm() / (frame - empty).detach().norm()) < accuracy
    gradients = [torch.autograd.grad((found.sqrt() - 0.7).square().sum(), delta)[0] for found in (cut, frame)]
    assert 0 < distance(*gradients) < accuracy


@pytest.mark.parametrize("options", [{}, {"edges": "outgoing"}, {"point_spread_pixels": 1.2}, {"oversampling": 2}])
@pytest.mark.parametrize("slabs", [2, 3, 5])
def test_tiles_that_see_everything_are_the_whole(slabs, options):
    geometry, delta = holograms(), turned_object()
    generator = torch.Generator().manual_seed(2)
    frame = (HEIGHT // options.get("oversampling", 1), WIDTH // options.get("oversampling", 1))
    refined = Adjustments(
        position_m=4 * torch.randn(4, 2, generator=generator),
        distance_m=torch.full((1,), 7.0),
        distance_shift_m=torch.tensor([[3.0, -2.0]]),
        background=torch.rand(frame, generator=generator),
    )
    whole = model_of(geometry, **options)
    expected = whole(delta, 0.1 * delta, uneven_probe(whole), VIEWS, refined)
    tiles = even_tiles(frame[0], slabs, HEIGHT)
    assert distance(in_tiles(geometry, tiles, delta, uneven_probe(whole), refined, **options), expected) < 1e-6


def test_a_tile_knows_nothing_beyond_its_halo():
    geometry, delta = holograms(angles_rad=np.zeros(1), off_m=0.0), thick_object()
    tiles, probe = even_tiles(HEIGHT, 3, HALO), uneven_probe(model_of(geometry))
    assert tiles == FrameTiles((0, 64, 128, 192), HALO)
    before, changed = in_tiles(geometry, tiles, delta, probe), []
    # 104 rows are needed; 105 is the next fast FFT length.
    for row in (42, 43, 44, 45, 147, 148, 149, 150):
        other = delta.clone()
        other[:, row] += 0.01
        changed.append(not torch.equal(in_tiles(geometry, tiles, other, probe)[:, 64:128], before[:, 64:128]))
    assert changed == [False, False, True, True, True, True, False, False]


def test_rows_of_the_window_cover_a_tile_with_its_halo_and_never_more_than_the_window():
    tiles = FrameTiles((0, 40, 80, 100), 10)
    assert tiles.in_window(140, margin=20, oversampling=1) == [(10, 70), (50, 110), (90, 130)]
    assert tiles.in_window(140, margin=20, oversampling=2)[0] == (10, 110)
    assert tiles.in_window(60, margin=20, oversampling=1)[:2] == [(0, 60), (0, 60)]
    assert tiles.coarser(4) == FrameTiles((0, 10, 20, 25), 3)


@pytest.mark.parametrize(
    ("rows", "slabs", "multiple", "ends"),
    [(10, 3, 1, (0, 4, 8, 10)), (16, 3, 4, (0, 8, 16, 16)), (16, 2, 8, (0, 8, 16)), (5, 4, 1, (0, 2, 4, 5, 5))],
)
def test_tiles_share_rows_evenly_or_not_at_all(rows, slabs, multiple, ends):
    found = even_tiles(rows, slabs, 3, multiple)
    assert found == (None if ends[-2] == ends[-1] else FrameTiles(ends, 3))


@pytest.mark.parametrize("refined", ["distance_magnification", "distance_rotation_rad"])
def test_frames_that_are_magnified_or_turned_are_refused(refined):
    geometry, delta = holograms(angles_rad=np.zeros(1), off_m=0.0), thick_object()
    tiles, probe = even_tiles(HEIGHT, 3, HALO), uneven_probe(model_of(geometry))
    with pytest.raises(ScanError, match="mix rows of all tiles"):
        in_tiles(geometry, tiles, delta, probe, Adjustments(**{refined: torch.zeros(1)}))
