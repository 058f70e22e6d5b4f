"""How far expected intensities are from measured ones. Shapes: (view, y, x); mask (y, x) is 1 where a pixel is good."""

import torch
from torch import Tensor


def amplitude_misfit(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> Tensor:
    """Return Σ(√I_model − √I)² over good pixels: Gaussian noise on the amplitude, the variance-stabilised Poisson law.

    Source: Thibault & Guizar-Sicairos, New J. Phys. 14, 063004 (2012).
    """
    return (mask * (torch.sqrt(expected + 1e-12) - measured_amplitude) ** 2).sum()


def amplitude_r_factor(expected: Tensor, measured_amplitude: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ|√I − √I_model| and Σ√I over good pixels; their ratio, over any number of batches, is the R-factor."""
    return (mask * (torch.sqrt(expected) - measured_amplitude).abs()).sum(), (mask * measured_amplitude).sum()
