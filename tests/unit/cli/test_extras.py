"""Commands whose packages only an extra installs."""

import sys

import pytest

from bluesky_multislice.cli.commands import multislice
from bluesky_multislice.errors import MultisliceError


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_without_its_extra_a_command_names_it(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bluesky_multislice.demo", None)
    with pytest.raises(MultisliceError, match=r"pip install 'bluesky-multislice\[demo\]'"):
        multislice([command, "--out", str(tmp_path)], standalone_mode=False)
