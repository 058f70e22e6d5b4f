"""The examples under deploy/ are read by what they are examples for."""

from pathlib import Path

import pytest
from tiled.config import parse_configs

from bluesky_multislice.recipe import convert, read_instrument, scan_fields

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("instruments/*.toml")), ids=lambda path: path.stem)
def test_every_instrument_file_is_read_and_its_units_convert(path):
    instrument = read_instrument(path)
    assert instrument.fields
    for name, place in instrument.fields.items():
        unit = "radian" if place.crystal else scan_fields()[name].unit
        if unit is not None:
            assert convert(1.0, place.unit or "", unit) > 0


def test_the_tiled_configuration_is_valid():
    config = parse_configs(DEPLOY / "tiled" / "config.yml")
    (tree,) = config.trees
    assert "duckdb:////srv/tiled/tables.duckdb" in tree.args["writable_storage"]
    assert "/srv/multislice/jobs" in tree.args["readable_storage"]
    assert config.streaming_cache is not None
