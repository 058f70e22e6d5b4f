"""``multislice reap --every`` as the service that it is: it looks again and again, whatever a look runs into."""

import os
import sys
from pathlib import Path
from uuid import uuid4

from flow_runs import eventually
from prefect.settings import get_current_settings

from bluesky_multislice.demo.processes import Service
from bluesky_multislice.jobs import JobFolder, JobRecord


def test_the_reaper_outlives_a_look_that_fails_and_looks_again(prefect_server, tmp_path):
    jobs, site = tmp_path / "jobs", tmp_path / "site.toml"
    settings = {
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "MULTISLICE_JOBS_ROOT": str(jobs),
        "MULTISLICE_SITE": str(site),
        "MULTISLICE_TILED_URI": "http://127.0.0.1:1",
    }
    command = [str(Path(sys.executable).with_name("multislice")), "reap", "--every", "1"]
    reaper = Service.start("reaper", command, os.environ | settings, tmp_path)
    try:
        eventually(lambda: "site.toml" in (said := reaper.log.read_text()) and "next attempt in 1 s" in said)
        damaged, first, second = (JobFolder(jobs / scan / str(uuid4())) for scan in ("a scan", "scan", "scan"))
        damaged.create().record.write_text('{"version": 99}')
        first.create()
        site.write_text('scheduler = "local"\n')
        for folder in (first, second):
            folder.create()
            eventually(lambda folder=folder: folder.read_record().state.ended)
            assert folder.read_record() == JobRecord().cancel("its flow run was deleted")
        assert f"Job folder {damaged.path} is left alone" in reaper.log.read_text()
        reaper.check()
    finally:
        reaper.stop()
