"""A package that is installed for the time of a test, with a module and entry points."""

import sys
from contextlib import contextmanager


@contextmanager
def installed(folder, monkeypatch, registry, *, module, source, group, points):
    """Install a package in a folder.

    Args:
        folder: an empty folder.
        monkeypatch: pytest's fixture.
        registry: function that reads the group once, and remembers what it found.
        module: name of its module.
        source: text of the module.
        group: group of the entry points.
        points: name of each entry point → its object.
    """
    (folder / f"{module}.py").write_text(source)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    entries = "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
    (about / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(folder)
    registry.cache_clear()
    try:
        yield
    finally:
        sys.modules.pop(module, None)
        registry.cache_clear()
