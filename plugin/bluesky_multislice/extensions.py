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
        group: entry point group.
        rule: what an object must be, for errors.
        accepts: whether an object is that.
        reserved: further names that are in use.

    Raises:
        ExtensionError: an entry point's object is not accepted, or its name is in use.
    """
    found = dict(own)
    for point in entry_points(group=group):
        extension = point.load()
        if not accepts(extension):
            raise ExtensionError(
                f"An entry point of the group {group} must be {rule}.",
                got=f"{extension!r} from the entry point {point.name} = {point.value}.",
                remedy="correct the package, or remove it from this environment.",
            )
        name = getattr(extension, "name", point.name)
        if name in found or name in reserved:
            raise ExtensionError(
                f"Every entry point of the group {group} needs a name of its own.",
                got=f"a second {name} from the entry point {point.name} = {point.value}.",
                remedy="rename it in its package, or remove that package from this environment.",
            )
        found[name] = extension
    return found
