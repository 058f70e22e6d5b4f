"""A disk that fails under its writers."""

import subprocess

import pytest


@pytest.fixture
def failing_disk(tmp_path):
    """A file system whose ``abort`` makes it read-only under its writers, as one does that has lost its storage."""
    place, image = tmp_path / "disk", tmp_path / "image"
    place.mkdir()
    image.write_bytes(bytes(32 * 2**20))
    for command in (["mkfs.ext4", "-qF", image], ["mount", "-o", "loop", image, place]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"only one who may mount has a disk that fails: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fail(place):
    """Make it read-only."""
    subprocess.run(["mount", "-o", "remount,abort", place], check=True)
