"""How far expected intensities are from measured ones: one table of data fidelities by name.

Shapes: frames (view, y, x), in units of their mean intensity; mask (y, x) is 1 where a pixel is good. A pixel that is
not to be used in one frame only, such as a saturated one, is NaN in that frame's measured amplitude.

Every fidelity is a sum over good pixels with one normalisation: where a frame is too bright by one small part e, each
gives ¼e²·ΣI, and where all pixels of a frame are equally bright they agree to second order in any error. So one step
and one weight of a regulariser serve all of them.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

FidelityName = Literal["amplitude", "poisson", "intensity"]

_DARK = 1e-4
"""Intensity, relative to the mean, that is added to model and measurement so that the logarithm of dark pixels ends."""

_ROOT_FLOOR = 1e-12
"""Intensity, relative to the mean, below which the root of a model's intensity is no steeper."""


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
        # numba takes a second to import, which those who compute nothing need not wait for.
        from bluesky_multislice.solvers import fused_misfit

        return fused_misfit.amplitude_misfit(expected, measured_amplitude, mask, _ROOT_FLOOR)
    good, amplitude = _used(measured_amplitude, mask)
    return (good * (torch.sqrt(expected + _ROOT_FLOOR) - amplitude) ** 2).sum()


def _are_plain_frames(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> bool:
    """Whether frames (view, y, x) and a mask (y, x) are in single precision on the processor."""
    tensors = expected, measured_amplitude, mask
    return expected.shape == measured_amplitude.shape == (len(expected), *mask.shape) and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors
    )


def poisson_misfit(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> Tensor:
    """Return ½Σ(I_model − I − I·ln(I_model/I)) over good pixels, a quarter of the deviance of Poisson counts.

    It is proportional to the negative logarithm of the likelihood, up to a constant. Source: Thibault &
    Guizar-Sicairos, New J. Phys. 14, 063004 (2012).
    """
    good, amplitude = _used(measured_amplitude, mask)
    model, measured = expected + _DARK, amplitude**2 + _DARK
    return 0.5 * (good * (model - measured - measured * torch.log(model / measured))).sum()


def intensity_misfit(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> Tensor:
    """Return Σ(I_model − I)²/4w over good pixels, w = ΣI²/ΣI of each measured frame: Gaussian noise on the intensity.

    The weight belongs to the frame, not to the batch: it does not matter how frames are batched or shared.
    """
    good, amplitude = _used(measured_amplitude, mask)
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


def amplitude_r_factor(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ|√I − √I_model| and Σ√I over good pixels; their ratio, over any number of batches, is the R-factor."""
    good, amplitude = _used(measured_amplitude, mask)
    return (good * (torch.sqrt(expected) - amplitude).abs()).sum(), (good * amplitude).sum()


def _used(measured_amplitude: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight (view, y, x) of each pixel, 0 or 1, and the amplitude with 0 where it is NaN."""
    return mask * torch.isfinite(measured_amplitude), torch.nan_to_num(measured_amplitude)
