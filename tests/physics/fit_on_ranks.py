"""What torchrun starts for test_ranks: fit a small volume on however many ranks there are; rank 0 saves the result."""

import sys

import numpy as np
import torch

from bluesky_multislice.frames import Frames
from bluesky_multislice.geometry import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel
from bluesky_multislice.parallel import end_process, join_mesh
from bluesky_multislice.scan import Scan
from bluesky_multislice.solvers import FitSettings, Unknowns, fit, load_views

VIEWS, N, EPOCHS = 8, 16, 4


def main(path):
    angles = np.repeat([0.0, 0.8], VIEWS // 2)
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
    probe = torch.ones(1, N, N, dtype=torch.complex64)
    measured = Scan(scan, Frames(model(delta, 0.1 * delta, probe, range(VIEWS)).numpy()))
    with join_mesh("cpu") as mesh:
        everything = np.arange(VIEWS)
        held, fitted = everything[:2], everything[2:]
        shares = [views[list(mesh.share(len(views)))] for views in (fitted, held)]
        settings = FitSettings(
            epochs=EPOCHS,
            batch_views=VIEWS,
            object_step_rad=0.05,
            probe_step=0.0,
            gradient_floor=0.02,
            absorption=True,
            positivity=False,
            seed=0,
        )
        sets = [load_views(measured, share, scale=1.0, device=mesh.device) for share in shares]
        unknowns = Unknowns(model, probe, settings, mesh.device)
        solution = fit(unknowns, sets[0], sets[1], settings, mesh, report=lambda epoch: None)
        if mesh.rank == 0:
            history = [(epoch.loss, epoch.held_back_loss) for epoch in solution.history]
            np.savez(path, delta=solution.delta, beta=solution.beta, history=history, r=solution.r_factor)


if __name__ == "__main__":
    main(sys.argv[1])
    end_process(0)
