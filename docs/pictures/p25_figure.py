"""Draw a one-angle result: phase of the object, amplitude of the probe, course of the fit.

``python docs/pictures/p25_figure.py star.h5 star.png``
"""

import sys

import h5py
import numpy as np
from matplotlib.figure import Figure

from bluesky_multislice.units import wavelength_m_from_energy


def draw(result: str, picture: str) -> None:
    """Save the picture of a result file with one slice."""
    with h5py.File(result) as file:
        delta = file["delta"]
        voxel_m = delta.attrs["voxel_size_m"]
        turns = voxel_m[0] / wavelength_m_from_energy(delta.attrs["energy_ev"])
        phase = -2 * np.pi * turns * delta[0]
        probe = np.abs(file["probe"][0])
        history = {name: column[()] for name, column in file["history"].items()}
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    for axes, image, title in ((left, phase, "phase, rad"), (middle, probe, "|probe|, √counts")):
        extent = np.array([0, image.shape[1], 0, image.shape[0]]) * voxel_m[2] * 1e6
        low, high = np.percentile(image, [1, 99])
        shown = axes.imshow(image, origin="lower", cmap="gray", vmin=low, vmax=high, extent=extent)
        axes.set(xlabel="x, µm", ylabel="y, µm", title=title)
        figure.colorbar(shown, ax=axes, shrink=0.8)
    right.semilogy(history["epoch"], history["loss"], label="fitted")
    right.semilogy(history["epoch"], history["held_back_loss"], label="held back")
    right.set(xlabel="epoch", title="misfit")
    right.legend()
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    draw(*sys.argv[1:])
