"""The techniques, one file each, and their registry."""

from bluesky_multislice.models.techniques.registry import find_technique, technique_fields, technique_of, techniques
from bluesky_multislice.models.techniques.technique import FitDefaults, Optics, Technique

__all__ = [
    "FitDefaults",
    "Optics",
    "Technique",
    "find_technique",
    "technique_fields",
    "technique_of",
    "techniques",
]
