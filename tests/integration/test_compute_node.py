"""A job on a compute node: torchrun and its rank find only the packages of deploy/compute-node.txt."""

import os
from importlib.metadata import packages_distributions
from pathlib import Path

from small_scan import hologram_scan

from bluesky_multislice.files import read_provenance, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import Allocation, LocalScheduler, SiteProfile, run_and_wait
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe

ROOT = Path(__file__).parents[2]
# Python imports this file at its start, before anything else.
ONLY_THESE = """
import os
import sys
from importlib.abc import MetaPathFinder

ALLOWED = {{"bluesky_multislice", *{allowed!r}, *sys.stdlib_module_names, *sys.modules}}


class OnlyThese(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] not in ALLOWED:
            with open({refused!r}, "a") as file:
                file.write(fullname + "\\n")
            raise ModuleNotFoundError(f"{{fullname}} is not on this compute node", name=fullname)


sys.meta_path.insert(0, OnlyThese())
"""


def modules_of(requirements):
    """Return the top-level modules of the distributions in a requirements file."""
    names = {line.partition("==")[0].lower().replace("-", "_") for line in requirements.read_text().splitlines()}
    found = packages_distributions().items()
    return sorted(module for module, offered in found if names & {name.lower().replace("-", "_") for name in offered})


def test_a_job_runs_with_the_packages_of_a_compute_node(tmp_path):
    refused, startup = tmp_path / "refused", tmp_path / "startup"
    startup.mkdir()
    allowed = modules_of(ROOT / "deploy" / "compute-node.txt")
    assert {"torch", "h5py", "algotom"} < set(allowed)
    (startup / "sitecustomize.py").write_text(ONLY_THESE.format(allowed=allowed, refused=str(refused)))
    scan, folder = hologram_scan(), JobFolder(tmp_path / "job").create()
    recipe = Recipe(epochs=1, ranks=1, device="cpu")
    write_scan(folder.frames, scan)
    plan = make_plan(recipe, scan)
    folder.write_job(recipe=recipe.model_dump(mode="json"), plan=plan.as_dict(), origin={})
    path = os.pathsep.join([str(startup), *filter(None, [os.environ.get("PYTHONPATH")])])
    scheduler = LocalScheduler(SiteProfile(environment={"PYTHONPATH": path}))
    run_and_wait(scheduler, folder, name="node", allocation=Allocation(), on_progress=lambda record: None)
    provenance = read_provenance(folder.result)
    assert provenance["figures"]["start"] == "thin_sample", "the initial guess needs algotom"
    wanted = refused.read_text().split() if refused.exists() else []
    assert not [name for name in wanted if name.startswith(("prefect", "tiled", "bluesky", "databroker", "matplotlib"))]
