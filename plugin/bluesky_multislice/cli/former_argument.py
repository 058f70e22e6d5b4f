"""The former result that a recipe names, from a file or from the catalogue."""

import os
from pathlib import Path

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import link_result, read_former
from bluesky_multislice.measurement import FormerResult


def stage_former(start_from: str, into: Path) -> FormerResult:
    """Write the stand-in of a former result, and return the result.

    Args:
        start_from: path of a result file, address of a node on a Tiled server, or path of a node in the catalogue of
            ``MULTISLICE_TILED_URI``.
        into: the stand-in.

    Raises:
        MultisliceError: there is no such file or node, or it is not a result.
    """
    path, address = Path(start_from).expanduser(), os.environ.get("MULTISLICE_TILED_URI")
    if path.exists():
        link_result(path, into)
    elif "://" in start_from or address:
        # Imported here because files need no service.
        from bluesky_multislice import catalog

        catalog.fetch_result_at(start_from, into, catalogue=address)
    else:
        raise ScanError(
            "start_from must name a result file, or a result in a Tiled catalogue.",
            got=f"{start_from}, which is not a file, and no catalogue.",
            remedy="correct the path; for a path in a catalogue, set MULTISLICE_TILED_URI or give the node's address.",
        )
    return read_former(into)
