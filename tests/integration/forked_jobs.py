"""Jobs on forked ranks: what the job itself does, without torchrun around it."""

import os
import sys

from forked_ranks import run_on_ranks
from torch.multiprocessing import ProcessExitedException

from bluesky_multislice.jobs import JobFolder, job


def run_job(folder: JobFolder, ranks: int = 2) -> int:
    """Run a job folder to its end; return the exit status of the rank that failed first, or 0."""
    try:
        run_on_ranks(main, ranks, folder)
    except ProcessExitedException as failed:
        return failed.exit_code
    return 0


def main(folder: JobFolder) -> int:
    """Run the job as the command line of a rank does; what it prints goes to the job's log."""
    with folder.log.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    sys.argv[1:] = [str(folder.path)]
    return job.main()
