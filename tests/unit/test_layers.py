"""What import-linter and ruff do not check: names of files, lists of public names."""

import ast
from collections import Counter
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
    assert not set(imported) - {name for node in listed for name in ast.literal_eval(node.value)}
