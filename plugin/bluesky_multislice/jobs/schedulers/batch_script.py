"""The batch script of a Slurm job, made from a template. Values from the site profile are quoted for the shell."""

import re
import shlex
import sys
from importlib.resources import files

from bluesky_multislice.jobs.environment import SECRET_NAMES, SPIN_COUNT
from bluesky_multislice.jobs.schedulers.site import Allocation, SiteProfile

_FIELD = re.compile(r"\{\{(\w+)\}\}")


def batch_script(profile: SiteProfile, allocation: Allocation, *, name: str, module: str) -> str:
    """Return the text of a batch script.

    Args:
        profile: the site profile.
        allocation: nodes, ranks and time of the job.
        name: the job's name: letters, digits, dots, dashes and underscores only.
        module: module that every rank runs.
    """
    cores = allocation.cpus_per_task or allocation.ranks_per_node
    values = {
        "directives": "\n".join(f"#SBATCH {directive}" for directive in _directives(profile, allocation, name, cores)),
        "warning_seconds": str(profile.warning_seconds),
        "umask": "027" if profile.readers == "group" else "077",
        "secret_names": SECRET_NAMES,
        "threads": str(max(1, cores // allocation.ranks_per_node)),
        "spin_count": SPIN_COUNT,
        "environment": "\n".join(f"export {key}={shlex.quote(value)}" for key, value in profile.environment.items()),
        "setup": "\n".join(profile.setup),
        "most_restarts": str(profile.most_restarts),
        "python": shlex.join([*profile.container, profile.python or sys.executable]),
        "ranks_per_node": str(allocation.ranks_per_node),
        "module": module,
    }
    template = files("bluesky_multislice.jobs.schedulers").joinpath("batch_script.sh").read_text()
    # One pass, so that text from the profile is never treated as a template field.
    return _FIELD.sub(lambda field: values[field[1]], template)


def _directives(profile: SiteProfile, allocation: Allocation, name: str, cores: int) -> list[str]:
    options = {"job-name": name} | dict(allocation.model_copy(update={"cpus_per_task": cores}).sbatch_options())
    return [f"--{option}={value}" for option, value in options.items()] + list(profile.directives)
