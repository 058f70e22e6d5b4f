"""Connection to a Tiled catalogue, by address or by the name that databroker and Tiled know it by, and its absence."""

import os
from collections.abc import Iterator, Sequence

import httpx
from tiled.client import from_context, from_profile
from tiled.client.container import Container
from tiled.client.context import Context
from tiled.profiles import ProfileNotFound, list_profiles, load_profiles

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


_BUSY = (429, 502, 503, 504)
"""HTTP status of a server or proxy that is busy or restarting: too many requests, bad gateway, unavailable, timeout."""

_REFUSED = (401, 403)
_PROBE_S = 10.0


def is_busy(error: BaseException) -> bool:
    """Return whether a server answered that it is busy or restarting."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in _BUSY


def refuses_key(error: BaseException) -> bool:
    """Return whether an error, or the error that caused it, is that the server refuses the key for a request."""
    answered = (each.response for each in _causes(error) if isinstance(each, httpx.HTTPStatusError))
    return any(answer.status_code in _REFUSED for answer in answered)


def is_away(error: BaseException) -> bool:
    """Return whether an error, or the error that caused it, is that the server does not answer or is restarting."""
    return any(isinstance(each, httpx.TransportError | ConnectionError) or is_busy(each) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the error that caused it, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


READING_SCOPES = ("read:metadata", "read:data")
"""Scopes of a key that reads runs."""
STREAM_SCOPES = ("create:apikeys", "revoke:apikeys")
"""Scopes of a key that subscribes to a multi-user server's events: its client makes a key for the connection."""
PUBLISHING_SCOPES = (*READING_SCOPES, "write:metadata", "write:data", "create:node")
"""Scopes of a key that reads runs and publishes reconstructions; without ``register``, volumes are copied."""


def missing_scopes(client: Container, needed: Sequence[str]) -> tuple[str, ...]:
    """Return the scopes that a client's key lacks; none if the server has a single user or does not tell.

    Args:
        client: a client of the server.
        needed: names of scopes.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    scopes = _scopes(client.context)
    return () if scopes is None else tuple(each for each in needed if each not in scopes)


def _scopes(context: Context) -> set[str] | None:
    """Return the scopes of a context's key; None if the server has a single user, or the client has no key."""
    if context.api_key is None or not context.server_info.authentication.links:
        return None
    scopes = set((context.which_api_key() or {}).get("scopes", ()))
    if "inherit" in scopes:
        scopes.update(*(role["scopes"] for role in (context.whoami() or {}).get("roles", ())))
    return scopes


def check_scopes(client: Container, needed: Sequence[str]) -> None:
    """Check that a client's key has scopes, as far as the server tells.

    Raises:
        CatalogError: it lacks some.
        httpx.HTTPError: the server does not answer.
    """
    missing = missing_scopes(client, needed)
    if missing:
        raise _without_scopes(str(client.context.api_uri), missing)


def _lacking_scopes(context: Context, needed: Sequence[str]) -> tuple[str, ...]:
    """As ``missing_scopes``, but none if the server does not know the key at all."""
    try:
        scopes = _scopes(context)
    except httpx.HTTPError:
        return ()
    return () if scopes is None else tuple(each for each in needed if each not in scopes)


def _without_scopes(uri: str, scopes: Sequence[str]) -> CatalogError:
    return CatalogError(
        "The API key of the Tiled server must have the scopes that the service needs.",
        got=f"a key without {', '.join(scopes)} for {uri.partition('?')[0]}.",
        remedy="make a key with these scopes (`tiled api_key create --help`), and set TILED_API_KEY to it.",
    )


def answers(address: str) -> bool:
    """Return whether the server of a catalogue answers now, whatever its answer is.

    Args:
        address: as for ``connect``. An unknown profile counts as a server that answers: waiting does not help.
    """
    if "://" not in address:
        _, content = load_profiles().get(address, (None, {}))
        address = str(content.get("uri", ""))
    try:
        return not address or httpx.get(address.partition("?")[0], timeout=_PROBE_S).status_code not in _BUSY
    except httpx.TransportError:
        return False


def _from_address(uri: str, api_key: str | None) -> object:
    try:
        context, parts = Context.from_any_uri(uri, api_key=api_key or os.environ.get("TILED_API_KEY"))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise _refused(uri, error) from error
    try:
        return from_context(context, node_path_parts=parts)
    except (httpx.HTTPError, KeyError, RuntimeError) as error:  # RuntimeError: the server needs a key and got none
        lacking = _lacking_scopes(context, READING_SCOPES) if refuses_key(error) else ()
        context.close()
        raise _without_scopes(uri, lacking) if lacking else _refused(uri, error) from error


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
