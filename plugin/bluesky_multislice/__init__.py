"""Three-dimensional reconstruction beyond the depth of field: the public names for use in a notebook.

Names are imported on first use, so that ``import bluesky_multislice`` does not load PyTorch.
"""

from importlib import metadata
from typing import TYPE_CHECKING, Any

from bluesky_multislice.lazy_names import lazy_names

if TYPE_CHECKING:
    from bluesky_multislice.errors import MultisliceError
    from bluesky_multislice.files import read_scan, read_volume, write_result
    from bluesky_multislice.measurement import Scan
    from bluesky_multislice.optics import multislice
    from bluesky_multislice.parallel import join_mesh
    from bluesky_multislice.planning import Plan, make_plan
    from bluesky_multislice.recipe import Recipe, read_recipe
    from bluesky_multislice.reconstruction import Reconstruction, reconstruct

    __version__: str

__all__ = [
    "MultisliceError",
    "Plan",
    "Recipe",
    "Reconstruction",
    "Scan",
    "__version__",
    "join_mesh",
    "make_plan",
    "multislice",
    "read_recipe",
    "read_scan",
    "read_volume",
    "reconstruct",
    "write_result",
]

_ROOMS = {
    "MultisliceError": "errors",
    "Plan": "planning",
    "Recipe": "recipe",
    "Reconstruction": "reconstruction",
    "Scan": "measurement",
    "join_mesh": "parallel",
    "make_plan": "planning",
    "multislice": "optics",
    "read_recipe": "recipe",
    "read_scan": "files",
    "read_volume": "files",
    "reconstruct": "reconstruction",
    "write_result": "files",
}
"""Public name → the subpackage that exports it."""

_import_name = lazy_names(__name__, _ROOMS)


def __getattr__(name: str) -> Any:
    """Return a public name from its subpackage; ``__version__`` is the version of the installed package."""
    if name == "__version__":
        return metadata.version("bluesky-multislice")
    return _import_name(name)
