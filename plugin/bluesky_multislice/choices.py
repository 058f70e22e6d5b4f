"""Choices by name: the recipe offers them, and the optics, models and solvers implement them.

The file imports nothing else of the package, so that forms and command-line options need no PyTorch.
"""

from typing import Literal

OwnTechnique = Literal["ptychography", "holography", "microscopy"]
"""Techniques of this package; ``models.techniques``."""

TECHNIQUES_GROUP = "bluesky_multislice.techniques"
"""Entry point group for the techniques of other packages."""

Propagation = Literal["multislice", "tiled-multislice", "finite-difference", "finite-difference-wide", "projection"]
"""Forward model of the beam inside the sample; ``optics.PROPAGATIONS``."""

Edges = Literal["periodic", "outgoing"]
"""Boundary condition of the window; ``outgoing``: waves are absorbed at its edges."""

Interpolation = Literal["linear", "cubic", "fourier"]
"""Interpolation of the rotated volume; ``optics.rotate``."""

Kernel = Literal["angular_spectrum", "fresnel"]
"""Free propagation between parallel planes; ``optics.propagator``."""

Kernels = Literal["auto", "general", "fused"]
"""Kernels on an accelerator: PyTorch's general ones, or this package's fused ones."""

FidelityName = Literal["amplitude", "poisson", "intensity"]
"""Noise model of the frames; ``solvers.fidelity.FIDELITIES``."""

OptimiserName = Literal["adam", "nesterov", "weighted"]
"""Optimiser of the object; ``solvers.optimisers``."""

FramesIn = Literal["memory", "disk"]
"""Storage of a rank's frames."""
