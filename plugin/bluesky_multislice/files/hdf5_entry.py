"""Finds groups and datasets of a scan in CXI and NeXus files, by name or by NeXus class.

Paths are CXI's, such as ``instrument_1/detector_1/distance``. A part ``NAME_1`` stands for the group of this name, for
``NAME``, and for every group of the NeXus class ``NXname``.
"""

from collections.abc import Iterator

import h5py

from bluesky_multislice.measurement import as_word

Group = h5py.File | h5py.Group


class Entry:
    """The part of an HDF5 file that holds one scan.

    A subentry with an instrument, such as Diamond's ``tomo_entry``, is searched before the entry around it.

    Args:
        file: the open file.

    Attributes:
        file: the open file.
        name: name of the entry, for errors; CXI's if there is none.
        others: names of further entries with an instrument.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        entries = list({str(entry.name): entry for entry in (*_groups(file, "entry_1"), *_children(file))}.values())
        entries.sort(key=lambda entry: not _has_instrument(entry))
        subentries = [group for entry in entries[:1] for group in _children(entry) if _has_instrument(group)]
        self._roots: list[Group] = [*subentries, *entries[:1]]
        self.name = str(self._roots[0].name).strip("/") if self._roots else "entry_1"
        self.others = [str(entry.name) for entry in entries[1:] if _has_instrument(entry)]

    def datasets(self, path: str) -> Iterator[h5py.Dataset]:
        """Return the datasets at a path that have values, the best match first."""
        for found in self.paths(path):
            yield self.file[found]  # pyright: ignore[reportReturnType]

    def paths(self, path: str) -> Iterator[str]:
        """Return the absolute paths of these datasets."""
        *parts, name = path.split("/")
        for root in self._roots:
            yield from _paths(root, parts, name)


def units_of(dataset: h5py.Dataset) -> str:
    """Return the unit in a dataset's attribute ``units`` or ``unit``; empty if there is none."""
    for name in ("units", "unit"):
        if name in dataset.attrs:
            return as_word(dataset.attrs[name])  # pyright: ignore[reportArgumentType]
    return ""


def all_datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the datasets of a file with their paths, each dataset once; links without a target are passed over."""
    seen = set[h5py.Group | h5py.Dataset]()  # h5py compares the place in the file, not the name.
    groups: list[tuple[str, Group]] = [("", file)]
    while groups:
        path, group = groups.pop(0)
        for name in group:
            found = group.get(name)
            if not isinstance(found, (h5py.Group, h5py.Dataset)) or found in seen:
                continue
            seen.add(found)
            if isinstance(found, h5py.Group):
                groups.append((f"{path}/{name}", found))
            elif found.shape is not None:
                yield f"{path}/{name}", found


def _paths(group: Group, parts: list[str], name: str) -> Iterator[str]:
    if parts:
        for child in _groups(group, parts[0]):
            yield from _paths(child, parts[1:], name)
        return
    if name not in group and name == "data" and "signal" in group.attrs:  # An NXdata names its data.
        name = as_word(group.attrs["signal"])  # pyright: ignore[reportArgumentType]
    found = group.get(name)
    if isinstance(found, h5py.Dataset) and found.size:
        yield f"{group.name}/{name}".replace("//", "/")


def _groups(parent: Group, part: str) -> Iterator[Group]:
    """Return the groups that a part of a path stands for; only one detector, with frames if there is one."""
    stem = part.removesuffix("_1")
    named = [group for name in (part, stem) if isinstance(group := parent.get(name), h5py.Group)]
    classed = [group for group in _children(parent) if stem != part and _class_of(group) == f"NX{stem}"]
    found = list({str(group.name): group for group in (*named, *classed)}.values())
    if stem == "detector":
        found = sorted(found, key=lambda group: not _has_frames(group))[:1]
    yield from found


def _children(parent: Group) -> list[Group]:
    # ``get`` returns None for a link whose target is missing.
    return [child for name in parent if isinstance(child := parent.get(name), h5py.Group)]


def _class_of(group: Group) -> str:
    return as_word(group.attrs.get("NX_class", ""))


def _has_instrument(entry: Group) -> bool:
    return next(_groups(entry, "instrument_1"), None) is not None


def _has_frames(group: Group) -> bool:
    data = group.get("data")
    return isinstance(data, h5py.Dataset) and data.ndim >= 3
