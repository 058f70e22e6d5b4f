"""The command line, in this process or as the installed command, and files for it to work on."""

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np

from bluesky_multislice.cli import main
from bluesky_multislice.files import write_scan

COMMAND = Path(sys.executable).with_name("multislice")


def multislice(*arguments):
    """Run ``multislice`` in this process, which has imported everything already; return what a process would."""
    printed, words = io.StringIO(), ["multislice", *map(str, arguments)]
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with patch.object(sys, "argv", words), redirect_stdout(printed), redirect_stderr(printed):
            main()
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    return subprocess.CompletedProcess(words, status, printed.getvalue())


def installed_multislice(*arguments, timeout_s=120):
    """Run the installed command and return the finished process; standard error follows standard output."""
    return subprocess.run(
        [str(COMMAND), *(str(argument) for argument in arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def refused(done, *words):
    """Whether a process ended with one of our errors that says these words."""
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    for word in ("rule:", "got:", "remedy:", *words):
        assert word in done.stdout, done.stdout
    return True


def write_volume(path, delta, voxel_m=1e-9, ratio=0.05):
    """A volume file as a person would write it."""
    with h5py.File(path, "w") as file:
        file["delta"], file["beta"] = delta, ratio * delta
        file.attrs["voxel_size_m"] = voxel_m
    return path


def describe_scan(path, scan):
    """An interchange file without frames."""
    write_scan(path, scan)
    with h5py.File(path, "r+") as file:
        del file["entry_1/data_1/data"], file["entry_1/instrument_1/detector_1/data"]
    return path


def write_changed(path, scan, change):
    """An interchange file with its frames changed by ``change``."""
    write_scan(path, scan)
    with h5py.File(path, "r+") as file:
        data = file["entry_1/instrument_1/detector_1/data"]
        frames = data[()]
        change(frames)
        data[...] = frames
    return path


def read_frames(path):
    """The stored frames of an interchange file."""
    with h5py.File(path) as file:
        return np.asarray(file["entry_1/instrument_1/detector_1/data"])
