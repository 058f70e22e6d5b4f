"""All user input: recipe, scan values, refinement, resources, instrument file, service settings."""

from bluesky_multislice.recipe.frame_processing import FrameProcessing
from bluesky_multislice.recipe.instrument import FieldPlace, Instrument, Samples, read_instrument, scan_fields
from bluesky_multislice.recipe.recipe import Recipe, ScanValues, Start, Support, make_recipe, read_recipe
from bluesky_multislice.recipe.refine import Refine, Schedules
from bluesky_multislice.recipe.resources import Gpus, Minutes, Nodes, Resources
from bluesky_multislice.recipe.scan_description import FRAME_FILES, ScanDescription, read_description
from bluesky_multislice.recipe.service_settings import (
    DEPLOYMENT,
    FLOW,
    LIVE_QUEUE,
    POOL,
    RERUN_QUEUE,
    ServiceSettings,
    SettingsError,
)
from bluesky_multislice.recipe.technique_names import technique_names
from bluesky_multislice.recipe.toml_file import read_toml
from bluesky_multislice.recipe.unit_conversion import convert, to_field_unit

__all__ = [
    "DEPLOYMENT",
    "FLOW",
    "FRAME_FILES",
    "LIVE_QUEUE",
    "POOL",
    "RERUN_QUEUE",
    "FieldPlace",
    "FrameProcessing",
    "Gpus",
    "Instrument",
    "Minutes",
    "Nodes",
    "Recipe",
    "Refine",
    "Resources",
    "Samples",
    "ScanDescription",
    "ScanValues",
    "Schedules",
    "ServiceSettings",
    "SettingsError",
    "Start",
    "Support",
    "convert",
    "make_recipe",
    "read_description",
    "read_instrument",
    "read_recipe",
    "read_toml",
    "scan_fields",
    "technique_names",
    "to_field_unit",
]
