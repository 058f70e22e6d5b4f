"""Names of the techniques."""

from importlib.metadata import entry_points
from typing import Annotated, get_args

from pydantic import AfterValidator, Field

from bluesky_multislice.choices import TECHNIQUES_GROUP, OwnTechnique


def technique_names() -> list[str]:
    """Return the names of all techniques.

    PyTorch is imported only if other packages provide techniques: these must be loaded to tell their names.

    Raises:
        ExtensionError: an entry point is not a technique, or its name is already in use.
    """
    if not entry_points(group=TECHNIQUES_GROUP):
        return list(get_args(OwnTechnique))
    from bluesky_multislice.models import techniques

    return list(techniques())


def _known_technique(name: str) -> str:
    if name not in technique_names():
        raise ValueError(f"unknown technique; known are {', '.join(technique_names())}")
    return name


TechniqueName = Annotated[
    str,
    AfterValidator(_known_technique),
    # Evaluated when a form is made, because other packages may provide techniques.
    Field(json_schema_extra=lambda schema: schema.update(enum=[*technique_names()])),
]
"""Type of a field with the name of a technique."""
