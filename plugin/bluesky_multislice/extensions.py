"""Entry points: what other installed packages add to this one."""

from collections.abc import Callable, Collection, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from bluesky_multislice.errors import ExtensionError

T = TypeVar("T")


def with_extensions(
    own: Mapping[str, T], *, group: str, rule: str, accepts: Callable[[Any], bool], reserved: Collection[str] = ()
) -> dict[str, T]:
    """Return the objects of this package, then those of other packages, by name.

    The name of an extension is its attribute ``name``, or else the name of its entry point.

    Args:
        own: objects of this package by name.
        group: entry point group, for example ``bluesky_multislice.priors``.
        rule: what ``accepts`` checks, for errors, for example ``a Technique``.
        accepts: returns whether an extension can be used.
        reserved: names that are taken by other things.

    Raises:
        ExtensionError: an entry point cannot be imported, its object is not accepted, or its name is in use.
    """
    found = dict(own)
    for point in entry_points(group=group):
        package = point.dist.name if point.dist else "unknown"
        origin = f"from the entry point {point.name} = {point.value} of the package {package}"
        try:
            extension = point.load()
        except Exception as error:
            raise ExtensionError(
                f"Every entry point of the group {group} must be importable.",
                got=f"{type(error).__name__}: {error} {origin}.",
                remedy=f"correct or remove the package {package}.",
            ) from error
        if not accepts(extension):
            raise ExtensionError(
                f"An entry point of the group {group} must be {rule}.",
                got=f"{extension!r} {origin}.",
                remedy=f"correct or remove the package {package}.",
            )
        name = getattr(extension, "name", point.name)
        if name in found or name in reserved:
            raise ExtensionError(
                f"Every entry point of the group {group} needs a unique name.",
                got=f"a second {name} {origin}.",
                remedy=f"rename it in the package {package}, or remove that package.",
            )
        found[name] = extension
    return found
