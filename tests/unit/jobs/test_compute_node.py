"""The packages of a compute node: the tested versions, and no service."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
SERVICES = {"prefect", "tiled", "bluesky", "bluesky-tiled-plugins", "databroker", "matplotlib", "fastapi", "ophyd"}


def pinned(path):
    return {line.strip() for line in path.read_text().splitlines() if "==" in line and not line.startswith("#")}


def test_versions_are_those_of_the_tests():
    assert pinned(ROOT / "deploy" / "compute-node.txt") <= pinned(ROOT / "constraints.txt")


def test_no_service_is_among_them():
    names = {line.partition("==")[0].lower() for line in pinned(ROOT / "deploy" / "compute-node.txt")}
    assert "torch" in names
    assert not names & SERVICES
