"""What torchrun starts where each rank is given a job folder of its own: FOLDER:FOLDER."""

import os
import sys
import traceback
from pathlib import Path

from bluesky_multislice.jobs import JobFolder, job
from bluesky_multislice.parallel import end_process

if __name__ == "__main__":
    folder = JobFolder(Path(sys.argv[1].split(":")[int(os.environ["RANK"])]))
    try:
        job.run(folder)
    except Exception:
        traceback.print_exc()
        end_process(1)
    end_process(0)
