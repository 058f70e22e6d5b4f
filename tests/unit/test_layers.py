"""What import-linter cannot see: submodules of packages that are not ours, names of files, lists of public names."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import bluesky_multislice

PACKAGE = Path(bluesky_multislice.__file__).parent
OUTSIDE_PARALLEL = sorted(path for path in PACKAGE.rglob("*.py") if "parallel" not in path.relative_to(PACKAGE).parts)


def mentioned(path):
    """Dotted names that a module imports or spells out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


@pytest.mark.parametrize("path", OUTSIDE_PARALLEL, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_parallel_says_torch_distributed(path):
    said = [name for name in mentioned(path) if name.startswith("torch.distributed")]
    assert not said, f"move to parallel/: {said}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_assert_and_no_star(path):
    """``assert`` vanishes under -O; ``import *`` hides where a name comes from."""
    tree = list(ast.walk(ast.parse(path.read_text())))
    assert not [node.lineno for node in tree if isinstance(node, ast.Assert)]
    assert not [node.lineno for node in tree if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]


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
