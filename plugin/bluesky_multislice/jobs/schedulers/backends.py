"""Registry of scheduler backends: those of this package, and entry points of other installed packages."""

import functools
from collections.abc import Mapping

from bluesky_multislice.extensions import with_extensions
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
        ExtensionError: an entry point is not a scheduler class, or its name is already in use.
    """
    own: dict[str, type[Scheduler]] = {"local": LocalScheduler, "slurm": SlurmScheduler}
    return with_extensions(
        own,
        group=GROUP,
        rule=f"a class with the members {', '.join(_MEMBERS)} of the protocol Scheduler",
        accepts=lambda offered: isinstance(offered, type) and all(hasattr(offered, member) for member in _MEMBERS),
    )


def make_scheduler(profile: SiteProfile) -> Scheduler:
    """Return the scheduler that a site profile names."""
    return schedulers()[profile.scheduler](profile)
