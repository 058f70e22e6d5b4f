"""What import-linter cannot see: submodules of packages that are not ours."""

import ast
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
