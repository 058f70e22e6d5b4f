"""Data fidelity, regularisers, the fit and what it gives back."""

from bluesky_multislice.solvers.fit import FitSettings, fit
from bluesky_multislice.solvers.solution import Epoch, Solution
from bluesky_multislice.solvers.views import load_views, split_views

__all__ = ["Epoch", "FitSettings", "Solution", "fit", "load_views", "split_views"]
