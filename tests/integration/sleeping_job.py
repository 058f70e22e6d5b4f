"""A job that a test can look at: it tells its rank, then does what ``job.json`` in its folder asks for."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    folder = Path(sys.argv[1])
    order = json.loads((folder / "job.json").read_text())
    rank = int(os.environ.get("RANK", "0"))
    if order.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if order.get("outlives"):
        # The launcher's end does not end its ranks: so it is where no kernel signals it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    (folder / f"rank-{rank}.json").write_text(
        json.dumps(
            {
                "pid": os.getpid(),
                "launcher": os.getppid(),
                "threads": os.environ["OMP_NUM_THREADS"],
                "world": os.environ.get("WORLD_SIZE", "1"),
                "environment": dict(os.environ),
            }
        )
    )
    if rank == 0:
        with (folder / "progress.jsonl").open("a") as progress:
            for epoch in range(3):
                progress.write(json.dumps({"epoch": epoch}) + "\n")
    print(f"rank {rank} is here", flush=True)
    if "error" in order:
        (folder / "error.json").write_text(json.dumps(order["error"]))
    attempts = len(list(folder.glob("attempt-*")))
    if rank == 0:
        (folder / f"attempt-{attempts + 1}").touch()
    if attempts < order.get("killed_times", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if order.get("fail"):
        sys.exit("the order was to fail")
    _held = bytearray(1_000_000 * order.get("hold_mb", 0))
    before = json.loads((folder / "epoch.json").read_text()) if (folder / "epoch.json").exists() else 0
    end = time.monotonic() + order.get("sleep_s", 0)
    while before < order.get("stops", 0) or time.monotonic() < end:
        if order.get("stops") and (folder / "stop-request").exists():
            # As a job does that leaves a checkpoint: an epoch further each time, unless it is told to stand still.
            epoch = before + (0 if order.get("stands_still") else 1)
            if rank == 0:
                (folder / "epoch.json").write_text(json.dumps(epoch))
                (folder / "interrupted.json").write_text(
                    json.dumps({"reason": "stop-request", "epoch": epoch}, indent=1)
                )
            os._exit(75)
        time.sleep(0.1)
    if rank == 0 and order.get("result"):
        (folder / "result" / "volume.h5").write_bytes(b"volume")
    if order.get("outlives"):
        os._exit(0)
    return 0


if __name__ == "__main__":
    main()
