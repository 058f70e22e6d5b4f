"""Registry of priors: those of this package, and entry points of other installed packages."""

import functools
import math
from collections.abc import Mapping
from dataclasses import fields

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.extensions import with_extensions
from bluesky_multislice.solvers.priors.prior import Prior
from bluesky_multislice.solvers.priors.smoothness_z import SmoothnessZ
from bluesky_multislice.solvers.priors.sparsity import Sparsity
from bluesky_multislice.solvers.priors.total_variation import TotalVariation
from bluesky_multislice.solvers.priors.vacuum import Vacuum

GROUP = "bluesky_multislice.priors"
"""Entry point group for a package's subclass of ``Prior``."""


@functools.cache
def prior_classes() -> Mapping[str, type[Prior]]:
    """Return the priors by name.

    Raises:
        ExtensionError: an entry point is not a ``Prior``, or its name is already in use.
    """
    own: dict[str, type[Prior]] = {prior.name: prior for prior in (TotalVariation, Sparsity, Vacuum, SmoothnessZ)}
    return with_extensions(
        own,
        group=GROUP,
        rule="a subclass of Prior",
        accepts=lambda offered: isinstance(offered, type) and issubclass(offered, Prior),
    )


def make_prior(name: str, parameters: Mapping[str, float]) -> Prior:
    """Return a prior with these parameters; others have their defaults.

    Raises:
        RecipeError: there is no prior or parameter of this name, or a value is out of range.
    """
    if name not in prior_classes():
        raise RecipeError(
            f"A prior must be one of {', '.join(prior_classes())}.",
            got=f"{name!r}.",
            remedy=f"correct the name, or install the package with its entry point in the group {GROUP}.",
        )
    kind = prior_classes()[name]
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise RecipeError(
            f"The parameters of the prior {name} are {', '.join(known)}.",
            got=f"{', '.join(unknown)}.",
            remedy="correct the parameter's name.",
        )
    infinite = [parameter for parameter, value in parameters.items() if not math.isfinite(value)]
    if infinite:
        raise RecipeError(
            "The parameters of a prior must be finite numbers.",
            got=f"{infinite[0]} = {parameters[infinite[0]]} of the prior {name}.",
            remedy="correct the value.",
        )
    if parameters.get("weight", 0.0) < 0:
        raise RecipeError(
            "The weight of a prior must be at least 0.",
            got=f"{parameters['weight']} for the prior {name}.",
            remedy="correct the value; 0 leaves the prior out.",
        )
    return kind(**parameters)
