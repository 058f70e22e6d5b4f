"""What each rank of test_start_on_ranks does: align, find axis and first volume of holograms; rank 0 saves them."""

from dataclasses import replace

import numpy as np
import torch
from thick_hologram import Hologram

from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction.start import align_series, find_axis_pixels, first_volume
from bluesky_multislice.solvers import split_views

PHANTOM = Hologram(size=24, angles=41, distance=40, bodies=30, radii=(0.06, 0.14), axis=1.5)


def main(path):
    scan = PHANTOM.scan(np.load(path))
    with join_mesh("cpu") as mesh:
        plan = make_plan(Recipe(ranks=mesh.size, device="cpu"), scan)
        if mesh.size > 1:
            # In three turns of six angles, and one of one.
            plan = replace(plan, frames_in="disk", angles_at_once=6)
        probe = torch.ones(1, *plan.forward_model(scan.geometry).window, dtype=torch.complex64)
        views = split_views(scan.geometry.views, plan.held_back_every)
        alignment = align_series(scan, plan, probe, 1.0, mesh, np.arange(scan.geometry.views))
        axis_pixels = find_axis_pixels(scan, plan, probe, 1.0, mesh)
        volumes, origin = first_volume(scan, plan, *views, probe, 1.0, mesh)
        if mesh.rank == 0 and volumes:
            found = {"delta": volumes[0], "beta": volumes[1], "origin": origin, "axis": axis_pixels}
            found |= {"shifts": alignment.pixels, "misfit": alignment.misfit}
            np.savez(path.with_name(f"{path.stem}-{mesh.size}.npz"), **found)
