"""Holograms of a thick object, computed in tiles by ranks or by one process."""

import numpy as np
import torch
from random_objects import OBJECTS, delta_of_phase

from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import NO_ADJUSTMENTS, ForwardModel, ModelOptions, even_tiles
from bluesky_multislice.parallel import Mesh, Slab

HEIGHT, WIDTH, SLICES, PIXEL_M, WAVELENGTH_M = 192, 48, 8, 4.0, 1.0
HALO = 20
ANGLES_RAD = np.array([0.0, 0.4, 0.4, 0.9])
OFF_M = 1.3 * PIXEL_M
"""Height of the last frame's centre: between pixels, so that the frame extends beyond the volume."""


def thick_object(kind="squares", radians=0.5, height=HEIGHT, length_m=100.0):
    """δ (z, y, x) with a given rms phase in radians."""
    delta = delta_of_phase(OBJECTS[kind](SLICES, height), radians, wavelength_m=WAVELENGTH_M, length_m=length_m)
    return delta[:, :, :WIDTH].float()


def holograms(height=HEIGHT, distance_m=200.0, angles_rad=ANGLES_RAD, off_m=OFF_M):
    """The geometry of frames with the height of the volume."""
    views = len(angles_rad)
    position_m = np.zeros((views, 2))
    position_m[-1] = off_m, 0
    detector = Detector((height, WIDTH), (PIXEL_M, PIXEL_M), "near_field")
    return ScanGeometry("holography", Beam(WAVELENGTH_M), detector, np.full(views, distance_m), angles_rad, position_m)


def model_of(geometry, *, length_m=100.0, **options):
    """A model with a margin for a volume of this thickness; for rotations, voxels are square in (z, x)."""
    height = geometry.detector.shape[0]
    grid = VolumeGrid((SLICES, height, WIDTH), (length_m / SLICES, PIXEL_M, PIXEL_M))
    if geometry.angle_rad.any():
        grid = VolumeGrid((WIDTH, height, WIDTH), (PIXEL_M, PIXEL_M, PIXEL_M))
    ranks = {name: options.pop(name) for name in ("slab", "frame_tiles") if name in options}
    return ForwardModel(geometry, grid, ModelOptions(SLICES, margin=24, **options), **ranks)


def uneven_probe(model):
    """A probe (1, y, x) that differs between the ends of the window."""
    y = torch.linspace(-1, 1, model.window[0])[:, None]
    return (1 + 0.3 * torch.sin(5 * y) + 0.2 * y).expand(model.window)[None].to(torch.complex64)


def misfit(intensity, rows):
    """A number that depends on every pixel of some rows of the frames (view, y, x)."""
    target = torch.rand(len(intensity), HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    return (intensity.sqrt() - target[:, rows]).square().sum()


def turned_object():
    """δ (z, y, x) on voxels that are square in (z, x)."""
    return thick_object(length_m=WIDTH * PIXEL_M).repeat_interleave(WIDTH // SLICES, 0)


class RowsAtHand(Slab):
    """A slab whose rank holds all rows, so that one process can compute every tile."""

    def gather(self, planes, wanted):
        return planes[..., slice(*wanted[self.mesh.slab]), :]


def in_tiles(geometry, tiles, delta, probe, adjustments=NO_ADJUSTMENTS, **options):
    """Return the frames (view, y, x) from tiles that one process computes one after the other."""
    found, slabs = [], len(tiles.rows)
    for slab in range(slabs):
        at_hand = RowsAtHand(Mesh(slab, slabs, torch.device("cpu"), slabs), geometry.detector.shape[0])
        model = model_of(geometry, slab=at_hand, frame_tiles=tiles, **options)
        found.append(model(delta, 0.1 * delta, probe, range(geometry.views), adjustments))
    return torch.cat(found, 1)


def tiled_on(mesh):
    """Return the whole frames and gradient of a volume of which every rank computes its tile."""
    slab = Slab(mesh, HEIGHT)
    model = model_of(holograms(), slab=slab, frame_tiles=even_tiles(HEIGHT, mesh.slabs, HALO))
    delta = slab.part_of(turned_object()).clone().requires_grad_()
    intensity = model(delta, 0.1 * delta, uneven_probe(model), range(len(ANGLES_RAD)))
    misfit(intensity, model.frame_rows).backward()
    # Rows of frames are distributed like the rows of the volume.
    return {"frames": slab.join(intensity.detach()), "gradient": slab.join(torch.as_tensor(delta.grad))}
