"""Data fidelity, regularisers, the fit and what it gives back."""

from bluesky_multislice.solvers.empty_beam import EmptyBeam
from bluesky_multislice.solvers.fidelity import FidelityName
from bluesky_multislice.solvers.fit import fit, judge
from bluesky_multislice.solvers.journal import FitJournal, Interrupted, Journal
from bluesky_multislice.solvers.kernel_choice import choose_kernels
from bluesky_multislice.solvers.optimisers import ObjectOptimiser, OptimiserName
from bluesky_multislice.solvers.priors import Priors, add_gradient_of_penalty, bound, cylinder_support
from bluesky_multislice.solvers.refinement import Quantity, RefinementSettings, Schedule, Scheduled
from bluesky_multislice.solvers.shell_correlation import ShellCorrelation, halves, shell_correlation
from bluesky_multislice.solvers.solution import Epoch, Solution
from bluesky_multislice.solvers.unknowns import FitSettings, Unknowns
from bluesky_multislice.solvers.views import (
    FramesIn,
    ReadAhead,
    ViewSet,
    in_batches,
    lanes_of,
    load_views,
    share_held_back,
    share_views,
    split_views,
)

__all__ = [
    "EmptyBeam",
    "Epoch",
    "FidelityName",
    "FitJournal",
    "FitSettings",
    "FramesIn",
    "Interrupted",
    "Journal",
    "ObjectOptimiser",
    "OptimiserName",
    "Priors",
    "Quantity",
    "ReadAhead",
    "RefinementSettings",
    "Schedule",
    "Scheduled",
    "ShellCorrelation",
    "Solution",
    "Unknowns",
    "ViewSet",
    "add_gradient_of_penalty",
    "bound",
    "choose_kernels",
    "cylinder_support",
    "fit",
    "halves",
    "in_batches",
    "judge",
    "lanes_of",
    "load_views",
    "share_held_back",
    "share_views",
    "shell_correlation",
    "split_views",
]
