"""Reconstructs on the emulated device and on the processor, and prints how far they differ, as JSON.

emulated_fits.py [case …]
"""

import json
import sys
import time
import traceback

import emulated_device

if __name__ == "__main__":
    emulated_device.install()

import torch
from small_fits import SmallFit, differences, refining

from bluesky_multislice.parallel import join_mesh

CASES = {
    "holograms": SmallFit("holograms"),
    "recomputed waves": SmallFit("holograms", gradient="recomputed"),
    "waves from checkpoints": SmallFit("holograms", gradient="checkpointed"),
    "light leaves at the edges": SmallFit("holograms", {"edges": "outgoing"}),
    "tiled-multislice": SmallFit("holograms", {"propagation": "tiled-multislice"}),
    "projection": SmallFit("holograms", {"propagation": "projection"}),
    "finite-difference": SmallFit("holograms", {"propagation": "finite-difference"}),
    "finite-difference-wide": SmallFit("holograms", {"propagation": "finite-difference-wide"}),
    "slices as many as planes": SmallFit("holograms", {"slices": 16, "depth_um": 0.016}),
    "cubic": SmallFit("holograms", {"interpolation": "cubic"}),
    "fourier": SmallFit("holograms", {"interpolation": "fourier"}),
    "adam": SmallFit("holograms", {"optimiser": "adam"}),
    "polished": SmallFit("holograms", {"polish": 2}),
    "bounds on β/δ": SmallFit("holograms", {"beta_over_delta_min": 0.05, "beta_over_delta_max": 0.2}),
    "no absorption": SmallFit("holograms", {"absorption": False}),
    "refined frames": SmallFit(
        "holograms", refining("positions", "axis_shift", "intensity", "distance", "background")
    ),
    "refined distances": SmallFit(
        "holograms at two distances",
        refining("distance", "distance_shift", "distance_magnification", "distance_rotation", "background_map"),
    ),
    "refined angles": SmallFit("holograms", refining("angle", "tilt")),
    "refined angles, cubic": SmallFit("holograms", {"interpolation": "cubic", **refining("angle", "tilt")}),
    "refined angles, fourier": SmallFit("holograms", {"interpolation": "fourier", **refining("angle", "tilt")}),
    "refined probe": SmallFit("holograms", {"refine_probe": True}),
    "coarse first": SmallFit("holograms", {"coarse_levels": 1, "start": "empty"}),
    "thin first": SmallFit("holograms", {"first_propagation": "projection"}),
    "smoothing by frames held back": SmallFit("holograms", {"smoothing_by_held_back": True, "held_back_every": 3}),
    "two halves": SmallFit("holograms", {"shell_correlation": True}),
    "point spread": SmallFit("holograms", {"point_spread_pixels": 1.0, "oversampling": 2}),
    "saturated": SmallFit("holograms with a saturated pixel", {"saturated": "mask"}),
    "frames on disk": SmallFit("holograms", {"frames_in": "disk"}),
    "poisson": SmallFit("holograms", {"fidelity": "poisson"}),
    "intensity": SmallFit("holograms", {"fidelity": "intensity"}),
    "smoothness along z": SmallFit("holograms", {"smoothness_z": 0.01, "l1": 0.01}),
    "cylinder": SmallFit("holograms", {"support": "cylinder"}),
    "joint illumination": SmallFit("holograms with a flat", {"illumination": "joint"}),
    "images": SmallFit("images"),
    "holograms of one angle": SmallFit("holograms of one angle"),
    "holograms of one angle, spacing": SmallFit(
        "holograms of one angle", {"depth_um": 0.012, "slices": 3, **refining("slice_spacing")}
    ),
    "patterns": SmallFit("patterns"),
    "patterns, vacuum": SmallFit("patterns", {"l1": None, "epochs": 1}),
    "patterns without a probe": SmallFit("patterns without a probe"),
    "patterns, modes": SmallFit("patterns", {"probe_modes": 2}),
    "patterns, adam": SmallFit("patterns", {"optimiser": "adam", **refining("positions")}),
    "patterns, recomputed": SmallFit("patterns", gradient="recomputed"),
    "patterns, checkpoints": SmallFit("patterns", gradient="checkpointed"),
    "patterns, tiled": SmallFit("patterns", {"propagation": "tiled-multislice"}),
    "patterns, projection": SmallFit("patterns", {"propagation": "projection"}),
    "patterns, finite-difference": SmallFit("patterns", {"propagation": "finite-difference", "slices": 3}),
    "patterns of one angle": SmallFit("patterns of one angle"),
    "patterns of one angle, variations": SmallFit("patterns of one angle", {"probe_variations": 2, "epochs": 4}),
    "patterns of one angle, adam": SmallFit("patterns of one angle", {"optimiser": "adam"}),
    "patterns of one angle, distance": SmallFit("patterns of one angle", refining("distance", "positions")),
    "patterns of one angle, spacing": SmallFit("patterns of one angle", refining("slice_spacing", "defocus")),
    "patterns of one angle, tiled": SmallFit("patterns of one angle", {"propagation": "tiled-multislice"}),
    "patterns of one angle, projection": SmallFit(
        "patterns of one angle", {"propagation": "projection", "slices": None, "depth_um": None}
    ),
    "patterns of one angle, finite-difference": SmallFit("patterns of one angle", {"propagation": "finite-difference"}),
    "patterns of one angle, wide": SmallFit("patterns of one angle", {"propagation": "finite-difference-wide"}),
}


def found(fit: SmallFit) -> dict:
    """Return how the solutions differ, what the device's log says, and how long both took."""
    plan, times = fit.plan(), [time.process_time()]
    with join_mesh("cpu") as mesh:
        expected = fit.solve(plan, mesh)
    times.append(time.process_time())
    emulated_device.LOG.clear()
    with join_mesh("cuda") as mesh:
        solution = fit.solve(plan, mesh)
    times.append(time.process_time())
    log = emulated_device.LOG
    return {
        "device": str(solution.delta.device),
        "differences": differences(solution, expected),
        "errors": [str(note) for _, note in log.of("error")],
        "seconds": [round(b - a, 2) for a, b in zip(times, times[1:])],
        "operators": sum(log.operators.values()),
        "synchronisations": log.count("synchronisation"),
        "uploads": log.count("upload"),
    }


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    results = {}
    for name in names or CASES:
        try:
            results[name] = found(CASES[name])
        except Exception:
            results[name] = {"failed": traceback.format_exc()}
        print(name, json.dumps(results[name] if "failed" not in results[name] else results[name]["failed"][-900:]), file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
