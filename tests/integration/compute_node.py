"""The environment of a compute node: Python finds only the packages of deploy/compute-node.txt."""

from importlib.metadata import packages_distributions
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[2] / "deploy" / "compute-node.txt"
# Python imports this file at its start, before any package.
ONLY_THESE = """
import sys
from importlib.machinery import PathFinder

ALLOWED = {{"bluesky_multislice", *{allowed!r}, *sys.stdlib_module_names, *sys.modules}}


class OnlyThese(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        # The standard library's list lacks _sysconfigdata, whose name contains the platform.
        if fullname.partition(".")[0] in ALLOWED or fullname.startswith("_sysconfigdata"):
            return PathFinder.find_spec(fullname, path, target)
        with open({refused!r}, "a") as file:
            file.write(fullname + "\\n")
        return None


sys.meta_path = [OnlyThese if finder is PathFinder else finder for finder in sys.meta_path]
"""


def packages_of_a_compute_node(folder):
    """Return the value of PYTHONPATH with which Python finds only these packages.

    Args:
        folder: an empty folder; its file ``refused`` lists the modules that were not found for this reason.
    """
    lines = REQUIREMENTS.read_text().splitlines()
    names = {line.partition("==")[0].lower().replace("-", "_") for line in lines if "==" in line}
    offered = packages_distributions().items()
    allowed = [module for module, by in offered if names & {name.lower().replace("-", "_") for name in by}]
    assert {"torch", "h5py", "numba"} < set(allowed)
    text = ONLY_THESE.format(allowed=sorted(allowed), refused=str(folder / "refused"))
    (folder / "sitecustomize.py").write_text(text)
    return str(folder)
