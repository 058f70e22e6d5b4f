"""Frames without a sample: their model, and how well they explain the measured frames."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import Scan, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel
from bluesky_multislice.optics import on_device
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan
from bluesky_multislice.solvers import FrameMisfits, frame_sums

_MOST_VIEWS = 64
"""Largest number of frames that are compared with an empty sample."""


def empty_model(geometry: ScanGeometry, plan: Plan) -> tuple[ForwardModel, Tensor]:
    """Return the projection model of a grid of one plane, and the empty object (z, y, x) on it."""
    grid = VolumeGrid((1, *plan.grid.shape[1:]), plan.grid.voxel_size_m, plan.grid.center_m)
    model = replace(plan, propagation="projection", slices=1, grid=grid).forward_model(geometry)
    return model, torch.zeros(grid.shape)


@torch.no_grad()
def misfits_of_empty_sample(
    scan: Scan, plan: Plan, probe: Tensor, views: NDArray[np.intp], scale: float, mesh: Mesh
) -> FrameMisfits:
    """Return the misfits of some of these views' frames with an empty sample. Each frame has its best intensity.

    Args:
        scan: the scan.
        plan: plan of the reconstruction.
        probe: complex (mode, y, x), in the square root of the frames' units over ``scale``.
        views: views of all ranks; at most 64 of them, evenly spaced, are evaluated.
        scale: intensity that is normalised to 1.
        mesh: the ranks.
    """
    some = views[np.unique(np.linspace(0, len(views) - 1, _MOST_VIEWS).astype(int))] if len(views) else views
    model, no_object = empty_model(scan.geometry, plan)
    model, no_object = model.to(mesh.device), no_object.to(mesh.device)
    mask = on_device(scan.frames.mask, mesh.device, torch.float32)
    total = torch.zeros((scan.geometry.views, 5), dtype=torch.float64, device=mesh.device)
    for view in some[mesh.share(len(some))].tolist():
        frame = torch.from_numpy(scan.frames.read(np.array([view]), saturated=plan.saturated)).div_(scale)
        frame = on_device(frame, mesh.device)
        expected, used = model(no_object, no_object, probe, [view]), mask * frame.isfinite()
        light = (used * expected).sum()
        expected = expected * torch.where(light > 0, (used * frame.nan_to_num()).sum() / light, 1.0)
        total[view] = frame_sums(expected, frame.sqrt(), mask)[0]
    mesh.sum(total)
    return FrameMisfits.of_sums(total)
