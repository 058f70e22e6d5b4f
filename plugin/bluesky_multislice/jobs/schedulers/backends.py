"""Registry of scheduler backends: those of this package, and entry points of other installed packages."""

import functools
from collections.abc import Mapping
from importlib.metadata import entry_points

from bluesky_multislice.errors import SchedulerError
from bluesky_multislice.jobs.schedulers.local import LocalScheduler
from bluesky_multislice.jobs.schedulers.scheduler import Scheduler
from bluesky_multislice.jobs.schedulers.site import SiteProfile
from bluesky_multislice.jobs.schedulers.slurm import SlurmScheduler

GROUP = "bluesky_multislice.schedulers"
"""Entry point group for a package's class of the protocol ``Scheduler``. Its name stands in a site profile."""

_MEMBERS = ("on_this_machine", "submit", "status", "cancel", "tail", "adopt", "active_jobs", "manual_command")


@functools.cache
def schedulers() -> Mapping[str, type[Scheduler]]:
    """Return the classes of the scheduler backends by their name in a site profile.

    Raises:
        SchedulerError: an entry point is not a scheduler class, or its name is already in use.
    """
    found: dict[str, type[Scheduler]] = {"local": LocalScheduler, "slurm": SlurmScheduler}
    for point in entry_points(group=GROUP):
        offered = point.load()
        missing = [member for member in _MEMBERS if not hasattr(offered, member)]
        if not isinstance(offered, type) or missing:
            raise SchedulerError(
                "An entry point for a scheduler must be a class with all members of the protocol Scheduler.",
                got=f"{offered!r} without {', '.join(missing) or 'being a class'}, from the entry point {point.name} = "
                f"{point.value}.",
                remedy="correct the package, or remove it from this environment.",
            )
        if point.name in found:
            raise SchedulerError(
                "Every scheduler needs a name of its own.",
                got=f"a second {point.name} from the entry point {point.name} = {point.value}.",
                remedy="rename it in its package, or remove that package from this environment.",
            )
        found[point.name] = offered
    return found


def make_scheduler(profile: SiteProfile) -> Scheduler:
    """Return the scheduler that a site profile names."""
    return schedulers()[profile.scheduler](profile)
