"""What a fit gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

Status = Literal["converged", "epochs_spent", "overfitting_stopped", "stalled", "diverged"]
"""Why a fit ended; a stalled one explains the frames hardly better than the empty volume that it started from."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the frames.

    Attributes:
        epoch: from 1.
        loss: mean misfit of a pixel of the fitted frames by the fit's data fidelity, relative to their mean intensity.
        held_back_loss: the same of the frames held back; None where there are none.
        seconds: since the first fit began.
        coarseness: pixels of the frames on a side of one that was fitted.
    """

    epoch: int
    loss: float
    held_back_loss: float | None
    seconds: float
    coarseness: int = 1

    def after(self, earlier: Sequence["Epoch"]) -> "Epoch":
        """Return this epoch of a fit that comes after others, counted from their first."""
        if not earlier:
            return self
        last = earlier[-1]
        return replace(self, epoch=last.epoch + self.epoch, seconds=last.seconds + self.seconds)


@dataclass(frozen=True, eq=False)
class Solution:
    """The unknowns after a fit, and how it went.

    Attributes:
        delta: (z, y, x).
        beta: (z, y, x).
        probe: complex (mode, y, x) at z = 0, in the square root of the frames' units.
        status: why the fit ended.
        advice: what to do about it, empty when nothing.
        best_epoch: the epoch that these unknowns come from, by the held-back frames.
        history: one row an epoch.
        r_factor: Σ|√I−√I_model|/Σ√I of the fitted frames; None where the model of a diverged fit has no number.
        held_back_r_factor: the same of the frames held back; None where there are none.
        differences: what was refined beside volume and probe, by name (``Quantity``), as differences from the scan: SI
            units, a part for intensities, the frames' units for backgrounds. Positions (view, 2), axis shifts (angle,
            2), intensities and angles (angle,), distances (distance,), their shifts (distance,
            2), magnifications and rotations (distance,), tilt (2,), slice spacing (slice,), backgrounds
            () or (y, x), probe variations complex (variation, y, x) in the probe's unit and of views (view, variation).
    """

    delta: Tensor
    beta: Tensor
    probe: Tensor
    status: Status
    advice: str
    best_epoch: int
    history: tuple[Epoch, ...]
    r_factor: float | None
    held_back_r_factor: float | None
    differences: Mapping[str, Tensor] = field(default_factory=dict)

    def with_probe_in(self, unit: float) -> "Solution":
        """Return the same with the probe multiplied by ``unit``, and its variations; backgrounds by its square."""
        factors = {"background": unit**2, "background_map": unit**2, "probe_variations": unit}
        differences = {name: value * factors.get(name, 1.0) for name, value in self.differences.items()}
        return replace(self, probe=self.probe * unit, differences=differences)
