"""What each rank of test_ranks does: fit small volumes on a mesh; rank 0 saves the results."""

import sys
from dataclasses import replace

import numpy as np
import torch
from tiled_holograms import tiled_on

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions, even_tiles
from bluesky_multislice.parallel import Slab, join_mesh
from bluesky_multislice.solvers import (
    FitSettings,
    Priors,
    RefinementSettings,
    Unknowns,
    fit,
    load_views,
    share_held_back,
    share_views,
    split_views,
)

N, LANES = 16, 4
SETTINGS = FitSettings(
    epochs=5,
    batch_views=4,
    # Relative rounding errors are smaller for larger distances.
    object_step_rad=0.2,
    probe_step=0.0,
    gradient_floor=0.02,
    absorption=True,
    positivity=False,
    seed=0,
)
WEIGHTS = {"total_variation": 0.01, "vacuum": 1.0, "smoothness_z": 0.01}
SMOOTHING = {name: {"weight": weight} for name, weight in WEIGHTS.items()}
SMOOTH = replace(SETTINGS, positivity=True, priors=Priors.make(SMOOTHING))
AT = torch.arange(N) - (N - 1) / 2
PROBE = 2 * torch.exp(-(AT[:, None] ** 2 + AT**2) / 100)[None].to(torch.complex64)
# Diffuse illumination avoids dark pixels, whose gradients depend on the rounding errors of the FFT.
DIFFUSER = torch.exp(1j * torch.rand((N, N), generator=torch.Generator().manual_seed(2)))
LIGHT = {"ptychography": PROBE * DIFFUSER, "holography": PROBE}
STRAY = 0.1
TURNED = np.array([0.0, 0.8])
PROPAGATIONS = {
    "multislice": {},
    "tiled-multislice": {"tiles": (2, 1), "halo": 4},
    "finite-difference": {},
    "projection": {},
}


def holography(angles, views=8):
    """Return the geometry of holograms of one field at several distances."""
    return ScanGeometry(
        "holography",
        Beam(1.0),
        Detector((N, N), (2.0, 2.0), "near_field"),
        np.linspace(30.0, 60.0, views),
        np.repeat(angles, views // len(angles)),
        np.zeros((views, 2)),
    )


def ptychography(angles):
    """Return the geometry of patterns whose windows are lower than the volume, at 4 × 2 positions for each angle."""
    y, x = np.meshgrid(np.array([-9.3, -3.0, 3.2, 9.0]), np.array([-4.0, 4.4]), indexing="ij")
    position_m = np.tile(2.0 * np.stack([y.ravel(), x.ravel()], axis=1), (len(angles), 1))
    # λ·distance / (pixels · pitch) is the pitch of the object.
    return ScanGeometry(
        "ptychography",
        Beam(1.0),
        Detector((N, N), (2.0, 2.0), "far_field"),
        np.full(len(position_m), 2.0 * N * 2.0),
        np.repeat(angles, 8),
        position_m,
    )


def measure(geometry, grid, **model):
    """Return the scan of a random volume, weaker for patterns; only holograms have a background."""
    generator = torch.Generator().manual_seed(1)
    strength = 0.01 if geometry.technique == "holography" else 0.002
    delta = strength * torch.rand(grid.shape, generator=generator)
    frames = ForwardModel(geometry, grid, ModelOptions(**model))(
        delta, 0.1 * delta, LIGHT[geometry.technique], range(geometry.views)
    ).numpy()
    return Scan(geometry, Frames(frames + (STRAY if geometry.technique == "holography" else 0)))


def fitted(geometry, settings, mesh, *, height=N, halo=None, **model):
    """Return the solution on the mesh, with the whole δ and β; each rank computes a tile of all frames with a halo."""
    grid = VolumeGrid((N, height, N), (2.0, 2.0, 2.0))
    model = {"slices": 8, **model}
    scan = measure(geometry, grid, **model)
    tiles = None if halo is None else even_tiles(height, mesh.slabs, halo)
    rank_of_view = None if tiles else ForwardModel(geometry, grid, ModelOptions(**model)).ranks_of_views(mesh.slabs)
    slab = Slab(mesh, height, rank_of_view)
    rows, sets = slice(*tiles.rows[mesh.slab]) if tiles else slice(None), []
    views, held = split_views(geometry.views, 7)
    judged = share_held_back(held, geometry.angle_rad, mesh.angles)[mesh.angle]
    for shared, lane in (share_views(views, LANES, mesh), (judged, None)):
        own = slab.computes(shared)
        sets.append(load_views(scan, shared, scale=1.0, device=mesh.device, lane=lane, own=own, rows=rows))
    model = ForwardModel(geometry, grid, ModelOptions(**model), slab=slab, frame_tiles=tiles)
    unknowns = Unknowns(model, LIGHT[geometry.technique], settings, mesh.device)
    solution = fit(unknowns, *sets, mesh, report=lambda epoch: None)
    return replace(solution, delta=slab.join(solution.delta), beta=slab.join(solution.beta))


def cases(mesh):
    """Yield the name of each case and its solution."""
    refined = RefinementSettings(("positions", "axis_shift", "intensity", "background"))
    # No position tells from another while the volume is empty: their first steps would go where rounding leads them,
    # which tiles do not share with whole frames.
    of_frames = ("positions", "distance", "distance_shift", "intensity", "background_map")
    later = RefinementSettings(of_frames, from_epoch=2)
    both = holography(TURNED)
    yield "known", fitted(both, SETTINGS, mesh)
    yield "smooth", fitted(both, SMOOTH, mesh)
    yield "refined", fitted(both, replace(SETTINGS, probe_step=0.02, refinement=refined), mesh)
    yield "polished", fitted(both, replace(SMOOTH, epochs=2, polish=2), mesh)
    yield "adam", fitted(both, replace(SMOOTH, optimiser="adam"), mesh)
    weighted = replace(SETTINGS, optimiser="weighted", probe_step=2.0, probe_variations=2)
    yield "weighted", fitted(holography(np.zeros(1)), weighted, mesh)
    yield "tiles, refined", fitted(both, replace(SMOOTH, probe_step=0.02, refinement=later), mesh, halo=N)
    yield "tiles, weighted", fitted(holography(np.zeros(1)), weighted, mesh, halo=N)
    for propagation, options in PROPAGATIONS.items():
        model = {"propagation": propagation, "keywords": options, "height": 34}
        probing = replace(SETTINGS, probe_step=0.02, refinement=RefinementSettings(("positions",)))
        yield f"patterns, {propagation}", fitted(ptychography(TURNED), probing, mesh, **model)
        yield f"holograms, {propagation}", fitted(both, probing, mesh, **(model | {"height": N}))


def moved_from_a_whole_state(mesh):
    """Return the object after a step from a state that one rank may have saved, and the planes of this rank's state."""
    slab = Slab(mesh, N)
    model = ForwardModel(holography(TURNED), VolumeGrid((N, N, N), (2.0, 2.0, 2.0)), ModelOptions(8), slab=slab)
    unknowns = Unknowns(model, PROBE, SETTINGS, mesh.device)
    generator = torch.Generator().manual_seed(0)
    momentum, weight, best = (slab.part_of(torch.rand((2, N, N, N), generator=generator)) for _ in range(3))
    state = unknowns.state({}, mesh) | {"object/length": torch.tensor(0.1, dtype=torch.float64)}
    state |= {"volume/object.momentum_buffer": momentum, "volume/weight": weight[0], "volume/best": best}
    unknowns.restore(unknowns.load(state, mesh))
    unknowns.gradients()[0].fill_(1 / mesh.angles)
    unknowns.volume.sum_gradient(mesh, divisor=None)
    unknowns.step()
    kept = unknowns.state(unknowns.copy(), mesh)
    planes = next(tensor.shape[1] for name, tensor in kept.items() if name.endswith("momentum_buffer"))
    return {"moved": slab.join(unknowns.object.detach()).numpy(), "planes": planes}


def figures(solution):
    """Return the arrays of the solution by name."""
    history = [(epoch.loss, epoch.held_back_loss) for epoch in solution.history]
    found = {"delta": solution.delta, "beta": solution.beta, "probe": solution.probe, "history": history}
    return found | {"r": solution.r_factor} | {name: value.numpy() for name, value in solution.differences.items()}


def main(path, slabs):
    found = {}
    with join_mesh("cpu", slabs) as mesh:
        for case, solution in cases(mesh):
            found |= {f"{case}/{name}": value for name, value in figures(solution).items()}
        found |= moved_from_a_whole_state(mesh)
        found["sympy"] = "sympy" in sys.modules
        found |= {f"with a halo/{name}": value for name, value in tiled_on(mesh).items()}
    if mesh.rank == 0:
        np.savez(path, **found)
