"""A rank ends with the torchrun that started it, also with one that was killed and could tell its ranks nothing."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from bluesky_multislice.parallel.mesh import end_process

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def end_with_launcher(last_word: str) -> None:
    """Have the kernel kill this rank as soon as its torchrun ends; without torchrun, or not on Linux, do nothing.

    torchrun puts every rank into a session of its own, so that whoever kills it, such as the kernel for want of memory,
    would leave ranks that nobody waits for. What they have not yet kept, a later start does again.

    Args:
        last_word: last word of the rank's command line, and therefore of its torchrun's.
    """
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have ended before the kernel was asked, while this rank was importing.
    if not _parent_has(last_word):
        print("torchrun has gone, and its rank goes, too", file=sys.stderr)
        end_process(1)


def _parent_has(word: str) -> bool:
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False
    return os.fsencode(word) in words
