"""Writing of files that are on the disk when the call returns, and checksums of files."""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_sum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            total = zlib.crc32(block, total)
    return total


def write_durably(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file and flush it to the disk."""
    with path.open("w") as file:
        file.write(json.dumps(record))
        file.flush()
        os.fsync(file.fileno())


def make_durable(folder: Path) -> None:
    """Flush the directory entries of a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
