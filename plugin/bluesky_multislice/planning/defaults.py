"""Default fit settings, by technique and number of angles."""

import math
from dataclasses import replace

import numpy as np

from bluesky_multislice.choices import OptimiserName
from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Scan, ScanGeometry, Scheduled
from bluesky_multislice.models import FitDefaults, technique_of
from bluesky_multislice.recipe import Recipe, Refine
from bluesky_multislice.solvers import FitSettings, Priors, RefinementSettings, Schedule

STEPS_PER_EPOCH = 20
"""Smallest number of optimiser steps per epoch, if each lane has enough views."""


_WEIGHTED_VIEWS = 4
"""Smallest number of views per step of weighted descent.

With two views, 0.9 of an error of the slice spacing remained; with four, 0.2 to 0.4.
"""


WEIGHTED_PROBE_STEP = 2.0
"""Factor on the weighted step of the probe: weak modes grow twice as fast as with 1; fits are stable up to 3."""


_WEIGHTED_MODES = 3
"""Number of modes of a probe that is refined with far-field patterns of one angle."""


_MOMENTUM_OF_SEVERAL = 0.95
"""Momentum for several magnifications. With 0.97, two magnifications ended at an error of 0.172 instead of 0.087."""


def fit_settings(
    recipe: Recipe, geometry: ScanGeometry, several_angles: bool, *, fitted: int, lanes: int
) -> FitSettings:
    """Return the fit settings for ``fitted`` views, with ``lanes`` batches per step."""
    technique_defaults = technique_of(geometry).fit
    refine_probe = recipe.refine_probe
    if refine_probe is None:
        refine_probe = technique_defaults.refine_probe or recipe.illumination == "joint"
    smoothing = recipe.total_variation
    if smoothing is None:
        smoothing = technique_defaults.total_variation if several_angles else 0.0
    positivity = several_angles if recipe.positivity is None else recipe.positivity
    vacuum = 1.0 if recipe.l1 is None and positivity and several_angles and technique_defaults.constrain_vacuum else 0.0
    optimiser = _optimiser(recipe, technique_defaults, several_angles, vacuum_is_held=vacuum > 0)
    epochs = recipe.epochs or _epochs(technique_defaults, several_angles, optimiser)
    return FitSettings(
        epochs=epochs,
        batch_views=recipe.batch_views or batch_views_of(fitted, lanes, optimiser),
        object_step_rad=(0.05 if several_angles else 0.02) * recipe.step,
        probe_step=(WEIGHTED_PROBE_STEP if optimiser == "weighted" else 0.02) * recipe.step if refine_probe else 0.0,
        gradient_floor=technique_defaults.gradient_floor,
        optimiser=optimiser,
        step=recipe.step,
        momentum=_momentum(recipe, geometry),
        polish=recipe.polish,
        probe_variations=recipe.probe_variations,
        absorption=recipe.absorption,
        positivity=positivity,
        seed=recipe.seed,
        refinement=_refinement(recipe.refine, epochs, optimiser),
        fidelity=recipe.fidelity,
        priors=_priors(recipe, smoothing, vacuum),
        beta_over_delta_min=recipe.beta_over_delta_min,
        beta_over_delta_max=recipe.beta_over_delta_max,
    )


def _momentum(recipe: Recipe, geometry: ScanGeometry) -> float:
    if recipe.momentum is not None:
        return recipe.momentum
    several = np.ptp(geometry.magnification) > 0
    return _MOMENTUM_OF_SEVERAL if several else technique_of(geometry).fit.momentum


def _priors(recipe: Recipe, total_variation: float, vacuum: float) -> Priors:
    """Return the priors with planned weights, and those that the recipe names."""
    planned = {
        "total_variation": {
            "weight": total_variation,
            "along_z": recipe.total_variation_z,
            "first": recipe.total_variation_first,
            "floor": recipe.total_variation_floor,
        },
        "l1": {"weight": recipe.l1 or 0.0},
        "vacuum": {"weight": vacuum},
        "smoothness_z": {"weight": recipe.smoothness_z},
    }
    return Priors.make(planned | recipe.priors)


def batch_views_of(fitted: int, lanes: int, optimiser: OptimiserName) -> int:
    """Return the number of views per batch for small steps.

    Args:
        fitted: number of views to fit.
        lanes: batches per step.
        optimiser: optimiser of the object.
    """
    least = math.ceil(_WEIGHTED_VIEWS / lanes) if optimiser == "weighted" else 1
    return int(np.clip(fitted // lanes // STEPS_PER_EPOCH, least, 32))


def _refinement(refine: Refine, epochs: int, optimiser: OptimiserName) -> RefinementSettings:
    """Return the refinement; slice_spacing starts late in weighted descent, whose long first steps would distort it."""
    given = refine.schedules.given
    late = (
        "slice_spacing" in refine.quantities
        and "from_epoch" not in given.get("slice_spacing", {})
        and optimiser == "weighted"
    )
    shared = RefinementSettings(
        quantities=refine.quantities,
        from_epoch=refine.from_epoch or (1 + epochs // 4 if late else 1),
        strength=refine.strength,
        furthest_pixels=refine.furthest_pixels,
    )
    own: dict[Scheduled, Schedule] = {name: replace(shared.schedule_of(name), **part) for name, part in given.items()}
    return replace(shared, schedules=own)


def _optimiser(recipe: Recipe, usual: FitDefaults, several_angles: bool, *, vacuum_is_held: bool) -> OptimiserName:
    if recipe.optimiser == "weighted" and several_angles:
        raise PlanError(
            "The weighted optimiser needs a scan of one angle.",
            got="several angles.",
            remedy="use another optimiser, or leave it out.",
        )
    if recipe.optimiser is not None:
        return recipe.optimiser
    if several_angles:
        # Nesterov's long first steps would leave a uniform background in volumes from patterns without a vacuum prior.
        return "nesterov" if vacuum_is_held or not usual.constrain_vacuum else "adam"
    return usual.single_angle_optimiser


def smoothing_candidates(recipe: Recipe, settings: FitSettings, held_back: int) -> tuple[float, ...]:
    """Return weights of total variation to compare on validation frames; empty if the planned weight is used."""
    if not recipe.smoothing_by_held_back:
        return ()
    weight = settings.priors.weight_of("total_variation")
    if weight == 0:
        raise PlanError(
            "smoothing_by_held_back needs a weight of total variation to vary.",
            got="a weight of 0.",
            remedy="set total_variation, or leave smoothing_by_held_back out.",
        )
    if held_back == 0:
        raise PlanError(
            "smoothing_by_held_back needs validation frames.",
            got="no frames held back.",
            remedy="set held_back_every, or leave smoothing_by_held_back out.",
        )
    return weight / 3, weight, weight * 3


def chooses_modes_by_validation(recipe: Recipe, scan: Scan, modes: int) -> bool:
    """Whether validation frames decide between one and all probe modes, as neither recipe nor probe sets the number."""
    return recipe.probe_modes is None and modes > 1 and (scan.probe is None or len(scan.probe) == 1)


def modes_of(scan: Scan, settings: FitSettings) -> int:
    """Return the largest number of probe modes; real beams are partially coherent, and detector pixels integrate."""
    if settings.optimiser == "weighted" and settings.probe_step > 0:
        return _WEIGHTED_MODES
    return 1 if scan.probe is None else len(scan.probe)


def _epochs(usual: FitDefaults, several_angles: bool, optimiser: OptimiserName) -> int:
    if optimiser == "weighted":
        return 30
    if not several_angles:
        return 60
    return usual.epochs if optimiser == "nesterov" else usual.adam_epochs
