"""The way to the bottom: exact where the misfit is a parabola, the same however its frames are shared."""

import numpy as np
import pytest
import torch
from small_scan import hologram_scan

from bluesky_multislice.parallel import Mesh, join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import Unknowns, load_views
from bluesky_multislice.solvers.fidelity import amplitude_misfit
from bluesky_multislice.solvers.line_search import line_search_step

PROBING_RAD = 0.01


def prepared(fill=None):
    """Unknowns at vacuum with the mean gradient of all frames (or one that is ``fill`` everywhere), and the frames."""
    scan = hologram_scan()
    plan = make_plan(Recipe(ranks=1), scan)
    device = torch.device("cpu")
    model = plan.forward_model(scan.geometry)
    unknowns = Unknowns(model, torch.ones(1, *model.window, dtype=torch.complex64), plan.fit, device)
    frames = load_views(scan, np.arange(8), scale=1.0, device=device)
    if fill is None:
        misfit(unknowns, frames).backward()
    else:
        unknowns.gradients()[0].fill_(fill)
    return unknowns, frames


def misfit(unknowns, frames):
    return (
        amplitude_misfit(unknowns.expected_intensity(frames.views), frames.amplitude, frames.mask)
        / frames.amplitude.numel()
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_it_leads_to_the_bottom_of_a_weak_samples_misfit(weighted):
    unknowns, frames = prepared()
    gradient = unknowns.gradients()[0].clone()
    weight = torch.linspace(0.5, 2.0, gradient.shape[-1]) if weighted else torch.tensor(1.0)
    with join_mesh("cpu") as mesh:
        way = line_search_step(unknowns, frames, [np.arange(8)], weight * gradient, PROBING_RAD, mesh)
    assert not unknowns.object.any(), "nothing has moved"

    def depth(part):
        with torch.no_grad():
            unknowns.object.copy_(-part * way * weight * gradient)
            return float(misfit(unknowns, frames))

    depths = [depth(part) for part in (0.0, 0.8, 1.0, 1.2)]
    assert depths[2] == min(depths) < 0.9 * depths[0]


def test_a_gradient_of_nothing_has_no_way():
    unknowns, frames = prepared(fill=0.0)
    with join_mesh("cpu") as mesh:
        nowhere = unknowns.gradients()[0]
        assert line_search_step(unknowns, frames, [np.arange(8)], nowhere, PROBING_RAD, mesh) == 0


def test_a_rank_without_a_batch_takes_part_in_the_sum():
    unknowns, frames = prepared()

    class Counted(Mesh):
        def sum(self, *tensors):
            tensors[0].copy_(torch.tensor([2.0, 8.0]))

    gradient = unknowns.gradients()[0]
    other = Counted(1, 2, torch.device("cpu"))
    way = line_search_step(unknowns, frames, [], gradient, PROBING_RAD, other)
    # Along the change the curvature is 2·2/8, and the slope Σ(gradient·change).
    scale = PROBING_RAD / float(gradient.abs().max())
    assert way == pytest.approx(float((gradient**2).sum()) * scale**2 / 0.5, rel=1e-4)
