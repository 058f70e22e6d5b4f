"""Connection to a Tiled server."""

import os

import httpx
from tiled.client import from_uri
from tiled.client.container import Container

from bluesky_multislice.errors import CatalogError


def connect(uri: str, api_key: str | None = None) -> Container:
    """Return a client of a Tiled server.

    Args:
        uri: address of the server, or of a container on it.
        api_key: key for it; None takes ``TILED_API_KEY`` from the environment. It is never logged.

    Raises:
        CatalogError: the server does not answer, or refuses the key.
    """
    try:
        client = from_uri(uri, api_key=api_key or os.environ.get("TILED_API_KEY"))
    except (httpx.HTTPError, OSError, KeyError, ValueError) as error:
        raise CatalogError(
            "The Tiled server must answer and accept the API key.",
            got=f"{type(error).__name__} from {httpx.URL(uri).copy_with(query=None)}.",
            remedy="check that the server runs, its address, and the key in TILED_API_KEY.",
        ) from error
    if not isinstance(client, Container):
        raise CatalogError(
            "The address must be a catalogue of runs.", got=f"a {type(client).__name__}.", remedy="correct the address."
        )
    return client
