"""Illumination that is fitted with the object: flats give its initial guess and are fitted with the frames."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from bluesky_multislice.measurement import Scan
from bluesky_multislice.optics import propagate
from bluesky_multislice.planning import Plan
from bluesky_multislice.reconstruction.start.empty_frames import empty_model
from bluesky_multislice.solvers import EmptyBeam


def probe_of_flats(scan: Scan, plan: Plan, scale: float) -> Tensor:
    """Return the probe (1, y, x) from the flat at the shortest distance, with constant phase at the detector.

    Args:
        scan: scan with frames that are not divided by flats.
        plan: plan of the reconstruction.
        scale: intensity that is normalised to 1.
    """
    finer, geometry = plan.oversampling, scan.geometry
    view = int(np.argmin(np.abs(geometry.effective_distance_m)))
    flat = np.kron(_whole_flat(scan, view) / (scale * finer**2), np.ones((finer, finer)))
    padding = [n - m for n, m in zip(plan.forward_model(geometry).window, flat.shape, strict=True)]
    flat = np.pad(flat, [(part // 2, part - part // 2) for part in padding], mode="edge")
    return propagate(
        torch.from_numpy(np.sqrt(flat).astype(np.complex64))[None],
        distance_m=-float(geometry.effective_distance_m[view]),
        wavelength_m=geometry.beam.wavelength_m,
        pixel_size_m=geometry.oversampled(finer).object_pixel_m,
        kernel=plan.way_to_detector,
    )


def empty_beam(scan: Scan, plan: Plan, scale: float, device: torch.device) -> EmptyBeam:
    """Return the flats of every distance as data for the probe.

    Args:
        scan: scan with frames that are not divided by flats.
        plan: plan of the reconstruction.
        scale: intensity that is normalised to 1.
        device: device of the tensors.
    """
    model = empty_model(scan.geometry, plan)[0].to(device)
    views = np.unique(scan.geometry.effective_distance_m, return_index=True)[1]
    flats = np.stack([scan.frames.flat(view) for view in views.tolist()])
    amplitude = torch.from_numpy(np.sqrt(flats / scale).astype(np.float32)).to(device)
    mask = torch.as_tensor(scan.frames.mask, dtype=torch.float32, device=device)
    return EmptyBeam(model, tuple(views.tolist()), amplitude, mask)


def _whole_flat(scan: Scan, view: int) -> NDArray[np.float32]:
    """Return the flat (y, x), with bad pixels replaced by their nearest good neighbour."""
    nearest = ndimage.distance_transform_edt(~scan.frames.mask, return_distances=False, return_indices=True)
    return scan.frames.flat(view)[tuple(np.asarray(nearest))]
