"""What torchrun starts for test_ranks: fit a small volume on however many ranks there are; rank 0 saves the result."""

import sys
from dataclasses import replace

import numpy as np
import torch

from bluesky_multislice.frames import Frames
from bluesky_multislice.geometry import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel
from bluesky_multislice.parallel import end_process, join_mesh
from bluesky_multislice.scan import Scan
from bluesky_multislice.solvers import FitSettings, RefinementSettings, Unknowns, fit, load_views

VIEWS, N, EPOCHS = 8, 16, 4
SETTINGS = FitSettings(
    epochs=EPOCHS,
    batch_views=VIEWS,
    object_step_rad=0.05,
    probe_step=0.0,
    gradient_floor=0.02,
    absorption=True,
    positivity=False,
    seed=0,
)
AT = torch.arange(N) - (N - 1) / 2
PROBE = 2 * torch.exp(-(AT[:, None] ** 2 + AT**2) / 40)[None].to(torch.complex64)
STRAY, BRIGHTER = 0.1, np.repeat(np.float32([1.0, 1.05]), VIEWS // 2)
REFINED = ("positions", "axis_shift", "intensity", "background")


def measure(angles):
    """Return the scan of a random volume, stray light and a brighter angle in it, and the model."""
    scan = ScanGeometry(
        "holography",
        Beam(1.0),
        Detector((N, N), (2.0, 2.0), "near_field"),
        np.linspace(30.0, 60.0, VIEWS),
        angles,
        np.zeros((VIEWS, 2)),
    )
    model = ForwardModel(scan, VolumeGrid((N, N, N), (2.0, 2.0, 2.0)), slices=8)
    generator = torch.Generator().manual_seed(1)
    delta = 0.01 * torch.rand(N, N, N, generator=generator)
    frames = model(delta, 0.1 * delta, PROBE, range(VIEWS)).numpy()
    return Scan(scan, Frames(STRAY + BRIGHTER[:, None, None] * frames)), model


def fitted(measured, model, settings, mesh):
    """Return the solution from the views that the ranks share, the first two of them held back."""
    everything = np.arange(VIEWS)
    sets = [
        load_views(measured, views[list(mesh.share(len(views)))], scale=1.0, device=mesh.device)
        for views in (everything[2:], everything[:2])
    ]
    return fit(Unknowns(model, PROBE, settings, mesh.device), *sets, settings, mesh, report=lambda epoch: None)


def figures(solution):
    """Return what the solution holds, by name."""
    history = [(epoch.loss, epoch.held_back_loss) for epoch in solution.history]
    found = {"delta": solution.delta, "beta": solution.beta, "history": history, "r": solution.r_factor}
    return found | {name: value.numpy() for name, value in solution.differences.items()}


def main(path):
    measured, model = measure(np.repeat([0.0, 0.8], VIEWS // 2))
    one_angle = measure(np.zeros(VIEWS))
    weighted = replace(SETTINGS, optimiser="weighted", probe_step=2.0, probe_variations=2)
    refining = replace(SETTINGS, probe_step=0.02, refinement=RefinementSettings(REFINED))
    with join_mesh("cpu") as mesh:
        solutions = {
            "known": fitted(measured, model, SETTINGS, mesh),
            "refined": fitted(measured, model, refining, mesh),
            "weighted": fitted(*one_angle, weighted, mesh),
        }
        if mesh.rank == 0:
            found = {f"{case}/{name}": value for case, one in solutions.items() for name, value in figures(one).items()}
            np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
    end_process(0)
