"""Data fidelity, priors, optimisers, the fit and its solution."""

from bluesky_multislice.solvers.empty_beam import EmptyBeam
from bluesky_multislice.solvers.fit import evaluate, fit
from bluesky_multislice.solvers.fit_settings import FitSettings
from bluesky_multislice.solvers.frame_misfits import FrameMisfits, frame_sums
from bluesky_multislice.solvers.journal import FitJournal, Interrupted, Journal
from bluesky_multislice.solvers.kernel_choice import choose_kernels
from bluesky_multislice.solvers.optimisers import DescentSettings, ObjectOptimiser
from bluesky_multislice.solvers.priors import (
    Bounds,
    Prior,
    Priors,
    Scales,
    apply_bounds,
    cylinder_support,
    make_prior,
)
from bluesky_multislice.solvers.refinement import RefinementSettings, Schedule
from bluesky_multislice.solvers.shell_correlation import ShellCorrelation, halves, shell_correlation
from bluesky_multislice.solvers.solution import Epoch, Solution, Status
from bluesky_multislice.solvers.unknowns import Unknowns
from bluesky_multislice.solvers.views import (
    Prefetcher,
    ViewSet,
    assign_lanes,
    load_views,
    make_batches,
    share_held_back,
    share_views,
    split_views,
)

__all__ = [
    "Bounds",
    "DescentSettings",
    "EmptyBeam",
    "Epoch",
    "FitJournal",
    "FitSettings",
    "FrameMisfits",
    "Interrupted",
    "Journal",
    "ObjectOptimiser",
    "Prefetcher",
    "Prior",
    "Priors",
    "RefinementSettings",
    "Scales",
    "Schedule",
    "ShellCorrelation",
    "Solution",
    "Status",
    "Unknowns",
    "ViewSet",
    "apply_bounds",
    "assign_lanes",
    "choose_kernels",
    "cylinder_support",
    "evaluate",
    "fit",
    "frame_sums",
    "halves",
    "load_views",
    "make_batches",
    "make_prior",
    "share_held_back",
    "share_views",
    "shell_correlation",
    "split_views",
]
