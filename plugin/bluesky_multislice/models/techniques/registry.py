"""The techniques by name: this package's, and those that other installed packages offer as entry points."""

import functools
from collections.abc import Mapping
from importlib.metadata import entry_points

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models.techniques.holography import HOLOGRAPHY
from bluesky_multislice.models.techniques.microscopy import MICROSCOPY
from bluesky_multislice.models.techniques.ptychography import PTYCHOGRAPHY
from bluesky_multislice.models.techniques.technique import ScanField, Technique

GROUP = "bluesky_multislice.techniques"
"""Entry point group in which a package offers a ``Technique``."""


@functools.cache
def techniques() -> Mapping[str, Technique]:
    """Return the techniques by name.

    Raises:
        ScanError: a package offers something else, or a name that is taken.
    """
    found = {technique.name: technique for technique in (PTYCHOGRAPHY, HOLOGRAPHY, MICROSCOPY)}
    for point in entry_points(group=GROUP):
        offered = point.load()
        if not isinstance(offered, Technique) or offered.name in found:
            raise ScanError(
                "A package offers a technique of a name of its own.",
                got=f"{offered!r} from the entry point {point.name} = {point.value}.",
                remedy="correct the package, or take it out of this environment.",
            )
        found[offered.name] = offered
    return found


def find_technique(name: str) -> Technique:
    """Return a technique.

    Raises:
        ScanError: nobody offers one of this name.
    """
    try:
        return techniques()[name]
    except KeyError:
        raise ScanError(
            f"The technique must be one of {', '.join(techniques())}.",
            got=f"{name!r}.",
            remedy=f"correct it, or install the package that offers it in the entry point group {GROUP}.",
        ) from None


def technique_of(geometry: ScanGeometry) -> Technique:
    """Return the technique of a scan.

    Raises:
        ScanError: nobody offers it, or the scan lacks a number that it needs, or has another kind of detector.
    """
    technique, detector = find_technique(geometry.technique), geometry.detector
    if technique.imaged != detector.imaged or (technique.imaged and detector.regime == "far_field"):
        raise ScanError(
            "A lens images onto the detector in the near field, and only where the technique has one.",
            got=f"{technique.name} with a {detector.regime} detector, imaged: {detector.imaged}.",
            remedy="correct the technique or the regime in the scan's metadata.",
        )
    missing = [field.name for field in technique.fields if field.name not in geometry.values]
    if missing:
        raise ScanError(
            f"A scan of {technique.name} has the values {', '.join(field.name for field in technique.fields)}.",
            got=f"no {', '.join(missing)}.",
            remedy="give them in the recipe's [scan.values] table, the scan's metadata or the instrument file.",
        )
    return technique


def technique_fields() -> dict[str, ScanField]:
    """Return by name the numbers that some technique's scans have and others have not."""
    return {field.name: field for technique in techniques().values() for field in technique.fields}
