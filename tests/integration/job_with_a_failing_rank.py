"""What torchrun starts where rank 1 fails as it is told (KIND) in the middle of the fit: FOLDER is the last word.

``raises``: an error of its own, while rank 0 goes on to the collective that follows an epoch.
``out of memory``: what PyTorch raises where the memory of a GPU has run out.
``unheard``: an error while rank 0 waits where it hears neither of its peer's end nor of a signal, as in NCCL's kernels.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from bluesky_multislice.jobs import job
from bluesky_multislice.parallel import end_process
from bluesky_multislice.solvers import Journal

KIND, RANK = sys.argv.pop(1), int(os.environ["RANK"])
whole = Journal.end_epoch


def end_epoch(self, *state):
    if RANK == 1 and KIND == "raises":
        raise ValueError("rank 1 cannot go on")
    if RANK == 1 and KIND == "out of memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nFurther lines.")
    if KIND == "unheard":
        store = dist.FileStore(str(Path(sys.argv[1]) / "store"))
        if RANK == 0:
            store.set("rank 0 waits", "")
            store.get("a word that nobody leaves")
        store.get("rank 0 waits")
        raise ValueError("rank 1 cannot go on")
    whole(self, *state)


if __name__ == "__main__":
    Journal.end_epoch = end_epoch
    end_process(job.main())
