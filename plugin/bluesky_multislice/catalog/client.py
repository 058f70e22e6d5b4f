"""Connection to a Tiled catalogue, by address or by the name that databroker and Tiled know it by."""

import os

import httpx
from tiled.client import from_context, from_profile
from tiled.client.container import Container
from tiled.client.context import Context
from tiled.profiles import ProfileNotFound, list_profiles

from bluesky_multislice.errors import CatalogError


def connect(address: str, api_key: str | None = None) -> Container:
    """Connect to a catalogue of runs.

    Args:
        address: address of the Tiled server or of a container on it, or the name of a Tiled profile: the catalogue
            that an analyst opens as ``databroker.catalog[name]``.
        api_key: API key; None: the environment variable ``TILED_API_KEY``. The key is never logged.

    Raises:
        CatalogError: there is no such profile, the server does not answer, or it rejects the key.
    """
    client = _from_address(address, api_key) if "://" in address else _from_profile(address, api_key)
    if not isinstance(client, Container):
        raise CatalogError(
            "The address must be a catalogue of runs.", got=f"a {type(client).__name__}.", remedy="correct the address."
        )
    return client


def _from_address(uri: str, api_key: str | None) -> object:
    try:
        context, parts = Context.from_any_uri(uri, api_key=api_key or os.environ.get("TILED_API_KEY"))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise _refused(uri, error) from error
    try:
        return from_context(context, node_path_parts=parts)
    except (httpx.HTTPError, KeyError, RuntimeError) as error:  # RuntimeError: the server needs a key and got none
        context.close()
        raise _refused(uri, error) from error


def _from_profile(name: str, api_key: str | None) -> object:
    try:
        return from_profile(name, **({"api_key": api_key} if api_key else {}))
    except ProfileNotFound as error:
        raise CatalogError(
            "A catalogue must be given by an address or by the name of a Tiled profile.",
            got=f"{name!r}; the profiles are {', '.join(list_profiles()) or 'none'}.",
            remedy="give an address such as http://HOST:8000, or create the profile with `tiled profile create`.",
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _refused(f"the profile {name}", error) from error


def _refused(uri: str, error: Exception) -> CatalogError:
    # Do not use the error's text: it can contain the address with the key in its query.
    return CatalogError(
        "The Tiled server must answer and accept the API key.",
        got=f"{type(error).__name__} from {uri.partition('?')[0]}.",
        remedy="check that the server runs, its address, and the key in TILED_API_KEY.",
    )
