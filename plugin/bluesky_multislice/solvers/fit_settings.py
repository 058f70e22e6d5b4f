"""Settings of a fit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bluesky_multislice.choices import FidelityName, OptimiserName
from bluesky_multislice.solvers.priors import Priors
from bluesky_multislice.solvers.refinement import RefinementSettings

_LAST_STEP = 0.02
"""Step length of the last epoch relative to the first."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit.

    Attributes:
        epochs: maximum number of passes over the frames.
        batch_views: views that a rank computes at once.
        batches_per_lane: batches of each lane per step; their gradients are summed.
        object_step_rad: step of δ and β for Adam and for finite differences, in radians of phase through the whole
            volume.
        probe_step: step of the probe relative to its root mean square, or factor on its weighted step; 0 keeps the
            probe fixed.
        gradient_floor: gradient below which Adam moves voxels less, relative to the largest gradient of the first step.
        absorption: fit β; if False, β stays 0.
        positivity: constrain δ and β to values ≥ 0.
        seed: random seed of the order of views.
        fidelity: name of a data fidelity in ``fidelity.FIDELITIES``.
        priors: what is assumed of the object.
        beta_over_delta_min: lower bound on β/δ of a voxel; None: no bound.
        beta_over_delta_max: upper bound on β/δ of a voxel; None: no bound.
        refinement: quantities refined beside object and probe.
        optimiser: optimiser of the object.
        step: factor on the object's step, if the step is computed from the data.
        momentum: momentum of the object for Nesterov's method.
        polish: steps of conjugate gradients over all frames after the epochs.
        probe_variations: number of shapes by which the probe may change from view to view.
        probe_light: mean |probe|² per pixel that the frames' intensity implies; it bounds a refined probe. None: that
            of the initial probe.
    """

    epochs: int
    batch_views: int
    object_step_rad: float
    probe_step: float
    gradient_floor: float
    absorption: bool
    positivity: bool
    seed: int
    fidelity: FidelityName = "amplitude"
    priors: Priors = field(default_factory=Priors)
    beta_over_delta_min: float | None = None
    beta_over_delta_max: float | None = None
    refinement: RefinementSettings = field(default_factory=RefinementSettings)
    optimiser: OptimiserName = "nesterov"
    step: float = 1.0
    momentum: float = 0.95
    polish: int = 0
    probe_variations: int = 0
    probe_light: float | None = None
    batches_per_lane: int = 1

    def relative_step(self, epochs_done: int) -> float:
        """Return the step length after this many epochs, relative to the first: a cosine."""
        part = min(epochs_done / self.epochs, 1)
        return _LAST_STEP + (1 - _LAST_STEP) * 0.5 * (1 + math.cos(math.pi * part))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FitSettings":
        """Rebuild settings from ``dataclasses.asdict``, also after a JSON round trip."""
        refinement = RefinementSettings.from_dict(values["refinement"])
        return cls(**{**values, "priors": Priors.from_dict(values["priors"]), "refinement": refinement})
