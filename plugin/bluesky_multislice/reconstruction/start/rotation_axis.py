"""Where the rotation axis is, from the holograms: where back-projections of the thin-sample phase are sharpest.

Few angles do not tell it alone: the centre of mass has to agree.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, optimize
from torch import Tensor

from bluesky_multislice.measurement import Scan
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan, angles_tell_axis
from bluesky_multislice.reconstruction.start.back_projection import angle_weights, back_project
from bluesky_multislice.reconstruction.start.first_volume import by_contrast_transfer, load_holograms

_BANDS = 8
"""Groups of rows whose phases are looked at; odd and even ones judge each other."""

_RATIO = 0.1
"""β/δ of the retrieval: the sharpness hardly depends on it."""

_MOST_MOTION = 4.2
"""Pixels to which phases are binned along x, times the largest step of the angle, radians.

What lies at the border moves by half of it from angle to angle. Where it moves by more, the sharpness says little: with
twice as much the axis was 3 pixels off, with this 0.1.
"""

_DETAILS = 10
"""Details larger than the width over this number are left out: thin-sample phases are wrong in them."""

_REACH = 8
"""The axis is looked for within the frame's width over this number, either way of its middle."""

_LEAST_PIXELS = 0.1
"""Distances between axis and middle that are left as they are."""

_AGREEMENT_PIXELS = 1.0
"""Most by which odd and even rows may differ for their axis to be believed."""

_METHODS_AGREE_PIXELS = 0.5
"""Most by which sharpness and centre of mass may differ where angles are few.

Of 48 scans of 8 to 32 angles 16 pass, and the mean of both is at most 0.23 pixel off; sharpness alone was up to nine.
"""


def find_axis_pixels(scan: Scan, plan: Plan, probe: Tensor, scale: float, mesh: Mesh) -> float | None:
    """Return how far the axis is to the right of where the scan has it, pixels of the volume; None where none is found.

    A volume that is back-projected about the right axis has the largest sum of squares: projections of a detail meet
    in one place, above all those half a turn apart. The sample need not fit into the frames, unless angles are few
    (``angles_tell_axis``): then its centre of mass has to give the same axis, and the mean of both is returned. All
    views count, also those that are held back: this is one number, and a missing angle makes a gap.

    Args:
        scan: what was measured.
        plan: of the reconstruction.
        probe: complex (mode, y, x), in the root of the frames' units over ``scale``.
        scale: intensity that becomes one.
        mesh: the ranks.
    """
    angles_rad = np.unique(scan.geometry.angle_rad)
    phases = _phases_in_bands(scan, plan, probe, scale, mesh, angles_rad)
    whole = _sharpest(phases, angles_rad)
    halves = [_sharpest(phases[:, part::2], angles_rad) for part in (0, 1)]
    if abs(halves[0] - halves[1]) > _AGREEMENT_PIXELS or abs(whole) >= phases.shape[-1] / _REACH:
        return None
    if not angles_tell_axis(scan.geometry):
        balanced = _balanced(phases, angles_rad)
        if abs(balanced - whole) > _METHODS_AGREE_PIXELS:
            return None
        whole = (balanced + whole) / 2
    return whole if abs(whole) >= _LEAST_PIXELS else 0.0


def move_axis(scan: Scan, pixels: float, pixel_m: float) -> Scan:
    """Return the scan with its axis so much further to the right: its frames lie further to the left of it."""
    position_m = scan.geometry.position_m - np.array([0.0, pixels * pixel_m])
    return replace(scan, geometry=replace(scan.geometry, position_m=position_m))


def _phases_in_bands(
    scan: Scan,
    plan: Plan,
    probe: Tensor,
    scale: float,
    mesh: Mesh,
    angles_rad: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return the projected phases (angle, band, x) of all ranks' angles, rows averaged in bands."""
    _, height, width = plan.grid.shape
    bands = min(_BANDS, height)
    phases = torch.zeros(len(angles_rad), bands, width)
    for own in load_holograms(scan, plan, np.arange(scan.geometry.views), probe, scale, mesh):
        phase = by_contrast_transfer(own, scan.geometry, plan.grid, _RATIO)
        rows = phase[: height // bands * bands].unflatten(0, (bands, -1)).mean(1)
        phases[np.searchsorted(angles_rad, own.angle_rad)] = rows
    phases = phases.to(mesh.device)
    mesh.sum(phases)
    return phases.cpu().numpy()


def _balanced(phases: NDArray[np.float32], angles_rad: NDArray[np.float64]) -> float:
    """Return how many pixels right of the middle the axis is about which the centre of mass turns.

    It moves by a sine of the angle where projections hold the whole sample, and the axis is the middle of the sine.
    """
    lines, width = phases.mean(1), phases.shape[-1]
    centres = lines @ (np.arange(width) - (width - 1) / 2) / lines.sum(-1)
    turns = np.stack([np.ones_like(angles_rad), np.cos(angles_rad), np.sin(angles_rad)], axis=-1)
    return float(np.linalg.lstsq(turns, centres, rcond=None)[0][0])


def _sharpest(phases: NDArray[np.float32], angles_rad: NDArray[np.float64]) -> float:
    """Return how many pixels right of the middle the axis is about which back-projections are sharpest."""
    around = np.sort(angles_rad % np.pi)
    largest_step = np.diff(around, append=around[0] + np.pi).max()
    factor = int(np.ceil(phases.shape[-1] * largest_step / _MOST_MOTION - 1e-3))
    width = phases.shape[-1] // factor
    binned = phases[..., : width * factor].reshape(*phases.shape[:2], width, factor).mean(-1)
    details = binned - ndimage.gaussian_filter1d(binned, width / _DETAILS, axis=-1, mode="nearest")
    # In a field of twice the width no volume reaches outside, whatever its axis: only sharpness tells them apart.
    details = np.fft.rfft(np.pad(details, ((0, 0), (0, 0), (width // 2, width - width // 2))))
    frequency = np.fft.rfftfreq(2 * width)
    weights_rad = angle_weights(angles_rad)

    def blur(pixels: float) -> float:
        # Projections are moved and not the axis: all axes then lose as little to the interpolation of the volume.
        moved = np.fft.irfft(details * np.exp(2j * np.pi * frequency * pixels), 2 * width)
        volume = back_project(moved.astype(np.float32), angles_rad, weights_rad)
        return -float(volume.double().square().sum())

    reach = width // _REACH
    candidates = np.arange(-reach, reach + 1)
    near = float(candidates[np.argmin([blur(pixels) for pixels in candidates])])
    found = optimize.minimize_scalar(blur, bounds=(near - 1, near + 1), method="bounded", options={"xatol": 0.02})
    return factor * float(found.x)
