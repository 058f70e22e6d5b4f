"""Data fidelities: misfits between expected and measured frames, in one table by name.

Shapes: frames (view, y, x), in units of their mean intensity; mask (y, x) is 1 for good pixels. A pixel that is
not to be used in one frame only, such as a saturated one, is NaN in that frame's measured amplitude.

Every fidelity is a sum over good pixels with a common normalisation. For a frame that is too bright by a small fraction
e, each gives ¼e²·ΣI. For frames of uniform brightness, all agree to second order in any error. The same step length
and regulariser weights therefore suit all of them.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from bluesky_multislice.choices import FidelityName

_DARK = 1e-4
"""Intensity, relative to the mean, added to model and measurement to keep the logarithm of dark pixels finite."""

_ROOT_FLOOR = 1e-12
"""Intensity, relative to the mean, added to the model's intensity to limit the slope of its root."""


class Fidelity(Protocol):
    """A data fidelity."""

    def __call__(self, expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> Tensor:
        """Return the misfit, a scalar that is 0 for equal frames and positive otherwise."""
        ...


def amplitude_misfit(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> Tensor:
    """Return Σ(√I_model − √I)² over good pixels: Gaussian noise on the amplitude, the variance-stabilised Poisson law.

    Source: Thibault & Guizar-Sicairos, New J. Phys. 14, 063004 (2012).
    """
    if _are_plain_frames(expected, measured_amplitude, mask):
        # Imported here because importing numba takes a second.
        from bluesky_multislice.solvers import fused_misfit

        return fused_misfit.amplitude_misfit(expected, measured_amplitude, mask, _ROOT_FLOOR)
    good, amplitude = used_amplitude(measured_amplitude, mask)
    return (good * (torch.sqrt(expected + _ROOT_FLOOR) - amplitude) ** 2).sum()


def _are_plain_frames(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> bool:
    """Whether frames (view, y, x) and mask (y, x) are float32 tensors on the CPU."""
    tensors = expected, measured_amplitude, mask
    return expected.shape == measured_amplitude.shape == (len(expected), *mask.shape) and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors
    )


def poisson_misfit(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> Tensor:
    """Return ½Σ(I_model − I − I·ln(I_model/I)) over good pixels, a quarter of the deviance of Poisson counts.

    It is proportional to the negative logarithm of the likelihood, up to a constant. Source: Thibault &
    Guizar-Sicairos, New J. Phys. 14, 063004 (2012).
    """
    good, amplitude = used_amplitude(measured_amplitude, mask)
    model, measured = expected + _DARK, amplitude**2 + _DARK
    return 0.5 * (good * (model - measured - measured * torch.log(model / measured))).sum()


def intensity_misfit(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> Tensor:
    """Return Σ(I_model − I)²/4w over good pixels, w = ΣI²/ΣI of each measured frame: Gaussian noise on the intensity.

    The weight belongs to the frame, not to the batch: it does not matter how frames are batched or shared.
    """
    good, amplitude = used_amplitude(measured_amplitude, mask)
    measured = amplitude**2
    total = (good * measured).sum((-2, -1), keepdim=True)
    squares = (good * measured**2).sum((-2, -1), keepdim=True)
    weight = torch.where(total > 0, squares / total.clamp(min=1e-12), torch.ones_like(total))
    return (good * (expected - measured) ** 2 / (4 * weight)).sum()


FIDELITIES: Mapping[FidelityName, Fidelity] = {
    "amplitude": amplitude_misfit,
    "poisson": poisson_misfit,
    "intensity": intensity_misfit,
}


def used_amplitude(measured_amplitude: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight (view, y, x) of each pixel, 0 or 1, and the amplitude with 0 where it is NaN."""
    return mask * torch.isfinite(measured_amplitude), torch.nan_to_num(measured_amplitude)
