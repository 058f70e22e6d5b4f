"""A job that a test can look at: it tells its rank, then does what ``job.json`` in its folder asks for."""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
order = json.loads((folder / "job.json").read_text())
rank = int(os.environ["RANK"])
if order.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / f"rank-{rank}.json").write_text(
    json.dumps({"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"], "world": os.environ["WORLD_SIZE"]})
)
if rank == 0:
    with (folder / "progress.jsonl").open("a") as progress:
        for epoch in range(3):
            progress.write(json.dumps({"epoch": epoch}) + "\n")
print(f"rank {rank} is here", flush=True)
if "error" in order:
    (folder / "error.json").write_text(json.dumps(order["error"]))
if order.get("fail"):
    sys.exit("the order was to fail")
time.sleep(order.get("sleep_s", 0))
if rank == 0 and order.get("result"):
    (folder / "result" / "volume.h5").write_bytes(b"volume")
