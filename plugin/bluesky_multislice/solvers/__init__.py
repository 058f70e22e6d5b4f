"""Data fidelity, regularisers, the fit and what it gives back."""

from bluesky_multislice.solvers.fidelity import FidelityName
from bluesky_multislice.solvers.fit import fit
from bluesky_multislice.solvers.regularisers import Priors
from bluesky_multislice.solvers.solution import Epoch, Solution
from bluesky_multislice.solvers.unknowns import FitSettings, Unknowns
from bluesky_multislice.solvers.views import load_views, split_views

__all__ = ["Epoch", "FidelityName", "FitSettings", "Priors", "Solution", "Unknowns", "fit", "load_views", "split_views"]
