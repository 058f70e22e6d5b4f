"""A mesh of ranks, angle × slab, gives the same volume as one rank."""

import fit_on_ranks
import numpy as np
import pytest
import torch
from forked_ranks import run_on_ranks
from tiled_holograms import ANGLES_RAD, HALO, HEIGHT, holograms, in_tiles, misfit, model_of, turned_object, uneven_probe

from bluesky_multislice.models import even_tiles

MESHES = [
    (3, 1),
    (2, 2),
    (1, 4),
    # What these do, ranks of the others do, too.
    *(pytest.param(mesh, marks=pytest.mark.matrix) for mesh in ((2, 1), (1, 2))),
]
CASES = ["known", "smooth", "refined", "polished", "adam", "weighted", "tiles, refined", "tiles, weighted"]
PROPAGATIONS = ["multislice", "tiled-multislice", "finite-difference", "projection"]
EVERY_CASE = CASES + [f"{frames}, {name}" for frames in ("patterns", "holograms") for name in PROPAGATIONS]


def fit_on(angles, slabs, path):
    """Run the fits on a mesh and return what rank 0 saved."""
    run_on_ranks(fit_on_ranks.main, angles * slabs, path, slabs)
    return np.load(path)


class Results(dict):
    """What was found, by mesh; a mesh computes when it is first asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, mesh):
        self[mesh] = fit_on(*mesh, self.folder / "{}x{}.npz".format(*mesh))
        return self[mesh]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(tmp_path_factory.mktemp("ranks"))


def relative_difference(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


@pytest.mark.timeout(900)  # The first of a mesh waits for all its fits.
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("case", EVERY_CASE)
def test_a_mesh_gives_the_volume_of_one_rank(results, mesh, case):
    volumes = [np.stack([results[ranks][f"{case}/{part}"] for part in ("delta", "beta")]) for ranks in (mesh, (1, 1))]
    # 4e-6 was measured, for patterns in tiles.
    assert relative_difference(*volumes) < 1e-5
    # The remaining misfit is a small difference of large numbers, with their rounding errors.
    for name in ("history", "r", "probe"):
        assert relative_difference(*(results[ranks][f"{case}/{name}"] for ranks in (mesh, (1, 1)))) < 5e-5


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(
    "found",
    [
        *(f"refined/{name}" for name in ("positions", "axis_shift", "intensity", "background")),
        *(f"patterns, {name}/positions" for name in PROPAGATIONS),
        *(f"tiles, refined/{name}" for name in ("positions", "distance", "distance_shift", "background_map")),
        "weighted/variation_of_view",
        "tiles, weighted/variation_of_view",
    ],
)
def test_what_is_refined_beside_the_volume_is_found_wherever_its_frames_lie(results, mesh, found):
    whole, shared = (results[ranks][found] for ranks in ((1, 1), mesh))
    assert whole.any()
    assert relative_difference(shared, whole) < 1e-3  # 6e-5 was measured


@pytest.mark.parametrize("mesh", MESHES)
def test_frames_held_back_find_their_own_positions_on_whatever_rank_they_lie(results, mesh):
    assert results[mesh]["refined/positions"][[0, 7]].all()


@pytest.mark.parametrize("case", ["known", "refined", "weighted", "patterns, multislice"])
def test_the_fit_explains_the_frames_better_each_epoch(results, case):
    fitted, held_back = results[1, 1][f"{case}/history"].T
    assert (np.diff(fitted) < 0).all()
    assert held_back[-1] < held_back[0]


@pytest.mark.parametrize("mesh", MESHES)
def test_no_rank_imports_symbolic_mathematics(results, mesh):
    """It takes two seconds of each."""
    assert not results[mesh]["sympy"]


@pytest.mark.parametrize("mesh", [(2, 2), (1, 4), pytest.param((1, 2), marks=pytest.mark.matrix)])
def test_tiles_with_a_halo_are_those_of_one_process_and_near_the_whole(results, mesh):
    geometry, delta = holograms(), turned_object().requires_grad_()
    whole = model_of(geometry)
    probe = uneven_probe(whole)
    in_turn = in_tiles(geometry, even_tiles(HEIGHT, mesh[1], HALO), delta, probe)
    for found, least, most in (
        (in_turn, 0, 1e-6),
        (whole(delta, 0.1 * delta, probe, range(len(ANGLES_RAD))), 1e-6, 0.06),
    ):
        gradient = torch.autograd.grad(misfit(found, slice(None)), delta)[0]
        for name, expected in (("frames", found.detach()), ("gradient", gradient)):
            assert least <= relative_difference(results[mesh][f"with a halo/{name}"], expected.numpy()) < most


@pytest.mark.parametrize("mesh", MESHES)
def test_ranks_of_the_same_rows_keep_their_share_of_the_optimisers_state(results, mesh):
    assert results[mesh]["planes"] == -(-16 // mesh[0])
    # Resumes from a checkpoint of a job whose ranks did not share planes.
    assert np.allclose(results[mesh]["moved"], results[1, 1]["moved"], atol=1e-6)
    assert results[1, 1]["moved"].std() > 0.1
