"""How long a scan waits for its reconstruction: from the run's stop document to the job's first epoch, in parts.

    python tests/benchmarks/latency_benchmark.py [--scans 5] [--site PROFILE]

Real services on this machine, all of them warm: one scan goes before those that count. A site profile with
``scheduler = "slurm"`` sends the jobs to Slurm. Printed are the parts of each scan, their medians and how far they lie
apart, in seconds; then how long a core was at work in the two steps that only compute, which neighbours on a shared
machine do not change. The Slurm of the tests, as root:

    export SLURM_CONF=/tmp/slurm/slurm.conf
    tests/system/slurm/start.sh /tmp/slurm 17300
    python tests/benchmarks/latency_benchmark.py --site tests/system/slurm/two-nodes.toml
    tests/system/slurm/stop.sh /tmp/slurm
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import psutil
from prefect.client.orchestration import get_client

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_scan import hologram_scan

from bluesky_multislice.catalog import connect
from bluesky_multislice.demo import serve
from bluesky_multislice.demo.flow_runs import MonitoredRun
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import read_site
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.simulation.beamline import run_scan

RECIPE = Recipe(epochs=3, ranks=2, held_back_every=4)
LIMIT_S = 300
PARTS = ("listener", "Prefect", "worker", "resolve, plan", "staging", "queue", "torch start", "whole")


@dataclass
class Moments:
    """When each step of one scan was done, s since the epoch."""

    stop: float
    created: float = 0.0
    pending: float = 0.0
    running: float = 0.0
    folder: float = 0.0
    staged: float = 0.0
    started: float = 0.0
    first_epoch: float = 0.0

    def parts(self):
        steps = list(asdict(self).values())
        return [*(later - earlier for earlier, later in pairwise(steps)), steps[-1] - steps[0]]


def appears(path, run, prefect, end):
    """Wait for a file with something in it, as long as the flow run goes well, and return when that was seen."""
    asked = time.time()
    while not (path.exists() and path.stat().st_size):
        if time.time() > end:
            raise TimeoutError(f"{path} did not appear within {LIMIT_S} s")
        if time.time() - asked > 5:
            run.update(prefect)
            asked = time.time()
        time.sleep(0.02)
    return time.time()


def processor_s(belongs):
    """Processor time of each process that ``belongs`` tells, s."""
    found = []
    for process in psutil.process_iter():
        try:
            if belongs(process):
                found.append(sum(process.cpu_times()[:2]))
        except psutil.Error:
            continue
    return sorted(found)


def measure(client, prefect, services, scan):
    """Take a scan and follow it to the first epoch of its job, and then to its end.

    Returns the parts, and processor times: of the flow until it has staged, of torchrun and one rank until their epoch.
    """
    uid = run_scan(
        client,
        scan.frames.source,
        scan.geometry,
        folder=services.detector,
        metadata={"multislice": {"auto": True, "recipe": RECIPE.model_dump(mode="json", exclude_defaults=True)}},
    )
    moments = Moments(stop=client[uid].metadata["stop"]["time"])
    end = time.time() + LIMIT_S
    run = MonitoredRun("holography", uid, RECIPE)
    while run.flow_run is None and time.time() < end:
        run.update(prefect)
        time.sleep(0.1)
    folder = JobFolder.under(services.jobs_root, uid, str(run.flow_run.id))
    moments.staged = appears(folder.job, run, prefect, end)
    flow_s = sum(processor_s(lambda each: each.environ().get("PREFECT__FLOW_RUN_ID") == str(run.flow_run.id)))
    appears(folder.record, run, prefect, end)
    queued = read_site(_site()).scheduler == "slurm"
    moments.started = appears(folder.log, run, prefect, end) if queued else moments.staged
    moments.first_epoch = appears(folder.progress, run, prefect, end)
    torchrun_s, *ranks_s = processor_s(lambda each: each.cmdline()[-1:] == [str(folder.path)])
    moments.folder = folder.frames.stat().st_ctime
    while not run.ended and time.time() < end:
        run.update(prefect)
        time.sleep(0.2)
    states = {state.name: state.timestamp.timestamp() for state in prefect.read_flow_run_states(run.flow_run.id)}
    moments.created = run.flow_run.created.timestamp()
    moments.pending, moments.running = states["Pending"], states["Running"]
    return moments.parts(), (flow_s, torchrun_s + max(ranks_s))


def _site():
    site = os.environ.get("MULTISLICE_SITE")
    return Path(site) if site else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=5)
    parser.add_argument("--site", type=Path)
    options = parser.parse_args()
    if options.site:
        os.environ["MULTISLICE_SITE"] = str(options.site.resolve())
    scan = hologram_scan()
    with tempfile.TemporaryDirectory() as out, serve(Path(out), on_ready=lambda name: None) as services:
        client = connect(services.tiled_uri, services.api_key)
        with closing(client.context), get_client(sync_client=True) as prefect:
            found = [measure(client, prefect, services, scan) for _ in range(1 + options.scans)][1:]
    rows, computed = zip(*found, strict=True)
    load = os.getloadavg()[0]
    print(f"{len(rows)} scans after one that warms up, {os.cpu_count()} cores, load {load:.1f}; seconds")
    print("| part | " + " | ".join(f"scan {number}" for number in range(1, 1 + len(rows))) + " | median | range |")
    print("| --- |" + " --- |" * (len(rows) + 2))
    for part, values in zip(PARTS, zip(*rows, strict=True), strict=True):
        cells = [*values, statistics.median(values), max(values) - min(values)]
        print(f"| {part} | " + " | ".join(f"{value:.2f}" for value in cells) + " |")
    flow_s, job_s = (statistics.median(values) for values in zip(*computed, strict=True))
    print(f"A core's time: {flow_s:.1f} s until the flow has staged, {job_s:.1f} s of torchrun and a rank to an epoch")


if __name__ == "__main__":
    main()
