"""A job whose ranks are given a job folder each."""

import os
import traceback

from bluesky_multislice.jobs import JobFolder, job


def main(*folders: JobFolder) -> int:
    """Run this rank's folder and return its exit status."""
    try:
        job.run(folders[int(os.environ["RANK"])])
    except Exception:
        traceback.print_exc()
        return 1
    return 0
