"""Reads a Bluesky run through plain Tiled containers, in any of three layouts.

=======================  ========================================================================
``run/primary``          bluesky-tiled-plugins 2: arrays and a table ``internal``
``run/streams/primary``  first releases of bluesky-tiled-plugins: the same, one level deeper
``run/primary/data``     databroker on MongoDB: one array per data key, descriptors in the metadata
=======================  ========================================================================

Plain containers are used because the special clients (bluesky-tiled-plugins, databroker 2) differ between versions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tiled.client.array import ArrayClient
from tiled.client.base import BaseClient
from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH, Container
from tiled.client.dataframe import DataFrameClient

from bluesky_multislice.catalog.tiled_rows import fetch_rows
from bluesky_multislice.errors import CatalogError, FramesError, ScanError


@dataclass(frozen=True)
class EventStream:
    """One stream of a run.

    Attributes:
        node: the container with its arrays and tables.
        data_keys: data key → description (shape, units, …) from the descriptor.
        configuration: device → its configuration (data, data_keys) from the descriptor.
    """

    node: Container
    data_keys: Mapping[str, Mapping[str, Any]]
    configuration: Mapping[str, Mapping[str, Any]]

    @cached_property
    def parts(self) -> dict[str, BaseClient]:
        """Arrays and tables by name."""
        return dict(self.node.items())

    @cached_property
    def _columns(self) -> dict[str, NDArray]:
        columns: dict[str, NDArray] = {}
        for part in self.parts.values():
            if isinstance(part, DataFrameClient):
                events = part.read()
                if "seq_num" in events:  # A repeated append can duplicate a row.
                    events = events.drop_duplicates("seq_num").sort_values("seq_num")
                columns |= {name: events[name].to_numpy() for name in events.columns}
        return columns

    @property
    def events(self) -> int:
        """Number of events in the stream's table; 0 if there is no table because all data are external."""
        return max((len(column) for column in self._columns.values()), default=0)

    @property
    def images(self) -> list[str]:
        """Data keys of arrays (event, …, y, x)."""
        return [key for key in self.parts if (array := self.array(key)) is not None and array.ndim >= 3]

    def array(self, key: str) -> ArrayClient | None:
        """Return the array of a data key; None if the key has no array."""
        part = self.parts.get(key)
        return part if isinstance(part, ArrayClient) else None

    def read(self, key: str) -> NDArray | None:
        """Return all values (event, …) of a data key; None if the stream has none."""
        array = self.array(key)
        if array is not None:
            return _read_array(array)
        column = self._columns.get(key)
        if column is None or column.dtype.kind != "O" or not len(column):
            return column
        # Short arrays of events are cells of the table, as text where the database of the server has no arrays.
        if all(isinstance(cell, str) and cell.startswith("[") and "..." not in cell for cell in column):
            column = [np.fromstring(cell.strip("[]").replace(",", " "), sep=" ") for cell in column]
        if not isinstance(column[0], (list, np.ndarray)) or len({len(cell) for cell in column}) > 1:
            return self._columns[key]
        return np.stack([np.asarray(cell) for cell in column])


@dataclass(frozen=True)
class RunDocuments:
    """A run: its start and stop documents and its streams.

    Attributes:
        uid: the run's unique identifier.
        start: the start document.
        stop: the stop document; empty while the run is in progress.
        node: the run's container.
    """

    uid: str
    start: dict[str, Any]
    stop: dict[str, Any]
    node: Container = field(repr=False)

    @cached_property
    def streams(self) -> dict[str, EventStream]:
        """The run's streams by name."""
        return {name: _stream(node) for name, node in _stream_nodes(self.node)}


def find_run(client: Container, run_uid: str) -> RunDocuments:
    """Find a run.

    Args:
        client: a Tiled container of runs, a catalogue of bluesky-tiled-plugins or databroker 2, or the run itself.
        run_uid: the run's unique identifier.

    Raises:
        CatalogError: the run does not exist, or the server did not answer.
    """
    try:
        node = client if "start" in client.metadata else plain_container(client)[run_uid]
    except (KeyError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise CatalogError(
            "The run must be in the catalogue.",
            got=f"no run {run_uid!r} in {client.uri}: {type(error).__name__}.",
            remedy="check the uid, the catalogue's address, and the read permission of the API key.",
        ) from error
    metadata: dict[str, Any] = dict(node.metadata)
    start = metadata.get("start")
    if not isinstance(node, Container) or not start or not str(start["uid"]).startswith(run_uid):
        raise CatalogError(
            "The node must be the requested Bluesky run.",
            got=f"{node.uri} for run {run_uid}.",
            remedy="give the address of the catalogue of runs, and the run's uid.",
        )
    return RunDocuments(start["uid"], dict(start), dict(metadata.get("stop") or {}), plain_container(node))


def require_success(run: RunDocuments) -> None:
    """Raise an error unless the run ended with success.

    Raises:
        ScanError: the run is unfinished, aborted or failed.
    """
    ending = premature_ending(run)
    if ending is not None:
        raise ScanError(
            "Only a run that ended with success can be reconstructed.",
            got=f"run {run.uid} that {ending}.",
            remedy="repeat the scan; if the run is still in progress, wait until it stops. Set scan.allow_aborted "
            "to use the frames that exist.",
        )


def premature_ending(run: RunDocuments) -> str | None:
    """Return how a run ended without success, such as "ended with abort: beam lost"; None if it ended with success."""
    status = run.stop.get("exit_status")
    if status == "success":
        return None
    reason = f": {run.stop['reason']}" if run.stop.get("reason") else ""
    return f"ended with {status}{reason}" if status else "has no stop document yet"


def plain_container(node: Container) -> Container:
    """Return a container without special clients, so that the tree does not depend on their version."""
    return Container(
        node.context,
        item=node.item,
        structure_clients=DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"],
        include_data_sources=True,
    )


def _read_array(array: ArrayClient) -> NDArray:
    """Return all rows of an array, without axes of length 1."""
    rows, *shape = (array.shape[0], *(n for n in array.shape[1:] if n != 1))
    try:
        return fetch_rows(array, 0, rows, tuple(shape))
    except FramesError:
        # The file may hold the samples of all events in one row, although the catalogue declares (event, sample).
        if len(shape) != 1:
            raise
        return fetch_rows(array, 0, rows * shape[0], ()).reshape(rows, shape[0])


def _stream_nodes(run: Container) -> Iterator[tuple[str, Container]]:
    for name, node in run.items():
        if not isinstance(node, Container):
            continue
        is_stream = any(spec.name == "BlueskyEventStream" for spec in node.specs)
        if name == "streams" and not is_stream:
            yield from _stream_nodes(plain_container(node))
        else:
            yield name, plain_container(node)


def _stream(node: Container) -> EventStream:
    metadata: dict[str, Any] = dict(node.metadata)
    descriptor = metadata if "data_keys" in metadata else next(iter(metadata.get("descriptors") or []), {})
    data = node["data"] if "data_keys" not in metadata and "data" in node else node
    return EventStream(
        plain_container(data) if isinstance(data, Container) else node,
        descriptor.get("data_keys", {}),
        descriptor.get("configuration", {}),
    )
