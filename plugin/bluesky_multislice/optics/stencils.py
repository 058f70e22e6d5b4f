"""Steps along one axis as products of rational functions of the second difference, ∏ (1 + q̄ₘ·s)/(1 + qₘ·s).

Each factor is a tridiagonal system. The second difference s = ψ(i+1) − 2ψ(i) + ψ(i−1) is −4·sin²(θ/2) for a wave with
θ radians per pixel. A step over d changes the phase of such a wave by φ = kd(√(1 − θ²/(kh)²) − 1) (paraxially −dθ²/2k),
with pitch h. All strengths are in units of a = d/(4kh²).

plain    −θ² ≈ s, then Crank–Nicolson: phase too small by 19 % at half the Nyquist frequency
compact  −θ² ≈ s/(1 + s/12), fourth order, then Crank–Nicolson: too small by 2.7 % there
wide     two factors with the exact phase and slope at θ = 0 and the exact phase at three more angles, up to 80 % of the
         Nyquist frequency, of the largest propagating angle, or of a phase limit; this corrects the errors of the
         stencil, of Crank–Nicolson and of the paraxial equation together

For real s every factor has modulus 1, so the steps conserve energy exactly.

Source: Lele, J. Comput. Phys. 103, 16 (1992) for the compact stencil; Collins, J. Acoust. Soc. Am. 93, 1736 (1993) for
products of fractions fitted to the whole step.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

Stencil = Literal["plain", "compact", "wide"]

_NODES = (0.3, 0.6, 0.8)
"""Angles at which ``wide`` is exact, relative to its band; of those tried, best on the strong thick cylinder."""

_LARGEST_PHASE = 4.0
"""Phase in rad up to which two factors are fitted; the phase of one factor covers at most 2π over all s."""


def fractions(stencil: Stencil, strength: float, radians_per_pixel: float) -> tuple[Tensor, Tensor]:
    """Return qₘ and ∂qₘ/∂a, both (m,) complex128.

    Args:
        stencil: which approximation.
        strength: a = d/(4kh²), larger than zero.
        radians_per_pixel: kh.
    """
    if stencil == "wide":
        a = torch.tensor(strength, dtype=torch.float64)
        slope = jacobian(lambda a: torch.view_as_real(_fitted(a, radians_per_pixel)), a)
        return _fitted(a, radians_per_pixel), torch.view_as_complex(slope)
    fourth_order = 1 / 12 if stencil == "compact" else 0.0
    q = torch.tensor([complex(fourth_order, -strength)], dtype=torch.complex128)
    return q, torch.full_like(q, -1j)


def _fitted(a: Tensor, radians_per_pixel: float) -> Tensor:
    """Return the two roots q of the denominator (1 + α₁s + α₂s²) − ia(s + βs²), fitted to tan(φ/2) at the nodes."""
    squared_angle = _squared_band(a, radians_per_pixel) * torch.tensor(_NODES, dtype=torch.float64) ** 2
    s = -4 * torch.sin(squared_angle.sqrt() / 2) ** 2
    phase = -4 * squared_angle / (1 + torch.sqrt(1 - squared_angle / radians_per_pixel**2))
    sine, cosine = phase / 2 * torch.sinc(a * phase / (2 * math.pi)), torch.cos(a * phase / 2)
    system = torch.stack([-sine * s, -sine * s**2, cosine * s**2], -1)
    first, second, beta = torch.linalg.solve(system, sine - cosine * s).unbind()
    total, product = torch.complex(first, -a), torch.complex(second, -a * beta)
    root = torch.sqrt(total**2 - 4 * product)
    return torch.stack([total + root, total - root]) / 2


def _squared_band(a: Tensor, radians_per_pixel: float) -> Tensor:
    """Return the largest θ² of waves that propagate, are sampled, and gain less than the largest phase."""
    share = (_LARGEST_PHASE / (4 * a * radians_per_pixel**2)).clamp(max=1)
    return (radians_per_pixel**2 * share * (2 - share)).clamp(max=math.pi**2)
