"""Connection to a Tiled server."""

import os

import httpx
from tiled.client import from_context
from tiled.client.container import Container
from tiled.client.context import Context

from bluesky_multislice.errors import CatalogError


def connect(uri: str, api_key: str | None = None) -> Container:
    """Connect to a Tiled server.

    Args:
        uri: address of the server, or of a container on it.
        api_key: API key; None: the environment variable ``TILED_API_KEY``. The key is never logged.

    Raises:
        CatalogError: the server does not answer, or rejects the key.
    """
    try:
        context, parts = Context.from_any_uri(uri, api_key=api_key or os.environ.get("TILED_API_KEY"))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise _refused(uri, error) from error
    try:
        client = from_context(context, node_path_parts=parts)
    except (httpx.HTTPError, KeyError, RuntimeError) as error:  # RuntimeError: the server needs a key and got none
        context.close()
        raise _refused(uri, error) from error
    if not isinstance(client, Container):
        raise CatalogError(
            "The address must be a catalogue of runs.", got=f"a {type(client).__name__}.", remedy="correct the address."
        )
    return client


def _refused(uri: str, error: Exception) -> CatalogError:
    # Do not use the error's text: it can contain the address with the key in its query.
    return CatalogError(
        "The Tiled server must answer and accept the API key.",
        got=f"{type(error).__name__} from {uri.partition('?')[0]}.",
        remedy="check that the server runs, its address, and the key in TILED_API_KEY.",
    )
