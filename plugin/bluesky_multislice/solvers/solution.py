"""Solution of a fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from bluesky_multislice.solvers.frame_misfits import FrameMisfits

Status = Literal["converged", "epochs_spent", "overfitting_stopped", "stalled", "diverged"]
"""Why a fit ended; ``stalled`` means hardly any improvement on an empty initial guess."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the frames.

    Attributes:
        epoch: number of the epoch, from 1.
        loss: mean misfit per pixel of the fitted frames, relative to their mean intensity.
        held_back_loss: mean misfit per pixel of the validation frames; None if there are none.
        seconds: seconds since the start of the first fit.
        coarseness: binning factor of the fitted frames.
    """

    epoch: int
    loss: float
    held_back_loss: float | None
    seconds: float
    coarseness: int = 1

    def after(self, earlier: Sequence["Epoch"]) -> "Epoch":
        """Return this epoch renumbered to follow the epochs of earlier fits."""
        if not earlier:
            return self
        last = earlier[-1]
        return replace(self, epoch=last.epoch + self.epoch, seconds=last.seconds + self.seconds)


@dataclass(frozen=True, eq=False)
class Solution:
    """The unknowns after a fit, and its quality.

    Attributes:
        delta: (z, y, x).
        beta: (z, y, x).
        probe: complex (mode, y, x) at z = 0, in the square root of the frames' units.
        status: why the fit ended.
        advice: what to change after a failed fit; else empty.
        best_epoch: epoch of these unknowns, with the lowest misfit on the validation frames.
        history: one row per epoch.
        r_factor: Σ|√I−√I_model|/Σ√I of the fitted frames; None if the model of a diverged fit is not finite.
        held_back_r_factor: R-factor of the validation frames; None if there are none.
        differences: refined quantities beside object and probe, by name (``Quantity``), as differences from the scan in
            SI units; fractions for intensities, the frames' units for backgrounds. Positions (view, 2), axis shifts
            (angle, 2), intensities and angles (angle,), distances (distance,), their shifts (distance, 2),
            magnifications and rotations (distance,), tilt (2,), slice spacing (slice,), backgrounds () or (y, x), probe
            variations complex (variation, y, x) in the probe's unit and their weights (view, variation).
        penalties: term of each prior in the cost, by name, in units of the misfit per pixel.
        frame_misfits: misfit of each fitted and validation frame; None if unknown.
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
    penalties: Mapping[str, float] = field(default_factory=dict)
    frame_misfits: FrameMisfits | None = None

    def with_probe_in(self, unit: float) -> "Solution":
        """Return the solution with probe and variations multiplied by ``unit``, and backgrounds by its square."""
        factors = {"background": unit**2, "background_map": unit**2, "probe_variations": unit}
        differences = {name: value * factors.get(name, 1.0) for name, value in self.differences.items()}
        return replace(self, probe=self.probe * unit, differences=differences)
