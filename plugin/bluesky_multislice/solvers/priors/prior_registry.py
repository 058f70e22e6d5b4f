"""Registry of priors: those of this package, and entry points of other installed packages."""

import functools
import math
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import entry_points

from bluesky_multislice.errors import RecipeError
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
        RecipeError: an entry point is not a ``Prior``, or its name is already in use.
    """
    found: dict[str, type[Prior]] = {prior.name: prior for prior in (TotalVariation, Sparsity, Vacuum, SmoothnessZ)}
    for point in entry_points(group=GROUP):
        offered = point.load()
        if not (isinstance(offered, type) and issubclass(offered, Prior)):
            raise RecipeError(
                "An entry point for a prior must be a subclass of Prior.",
                got=f"{offered!r} from the entry point {point.name} = {point.value}.",
                remedy="correct the package, or remove it from this environment.",
            )
        if offered.name in found:
            raise RecipeError(
                "Every prior needs a name of its own.",
                got=f"a second {offered.name} from the entry point {point.name} = {point.value}.",
                remedy="rename it in its package, or remove that package from this environment.",
            )
        found[offered.name] = offered
    return found


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
