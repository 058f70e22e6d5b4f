"""What import-linter and ruff do not check: names of files, lists of public names."""

import ast
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

import bluesky_multislice

PACKAGE = Path(bluesky_multislice.__file__).parent


def test_no_two_files_have_one_name():
    names = Counter(path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_room_says_what_it_is_for_and_lists_its_names(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    listed = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    helpers = {"TYPE_CHECKING", "lazy_names"}
    assert not set(imported) - helpers - {name for node in listed for name in ast.literal_eval(node.value)}


@pytest.mark.parametrize("package", ["bluesky_multislice", "bluesky_multislice.catalog"])
def test_every_name_that_is_imported_on_first_use_is_there(package):
    module = import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
