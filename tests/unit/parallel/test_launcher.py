"""A rank that a launcher started, and only such a one, ends if it has ended before the rank could be tied to it."""

import subprocess
import sys

RANK = """
import os
from bluesky_multislice.parallel import end_with_launcher
end_with_launcher("the job folder")
print("by hand, it stays")
os.environ["TORCHELASTIC_RUN_ID"] = "none"
end_with_launcher({word!r})
print("its parent is the launcher")
"""


def run(word):
    """What a rank says and how it ends; the last word of its parent, which is this process, may be ``word``."""
    return subprocess.run(
        [sys.executable, "-c", RANK.format(word=word)], capture_output=True, text=True, check=False, timeout=120
    )


def test_a_rank_whose_launcher_has_gone_ends():
    done = run("none of the words that started pytest")
    assert (done.returncode, done.stdout) == (1, "by hand, it stays\n")
    assert "the launcher has ended" in done.stderr


def test_a_rank_whose_launcher_lives_goes_on():
    done = run(sys.orig_argv[-1])
    assert (done.returncode, done.stdout) == (0, "by hand, it stays\nits parent is the launcher\n")
