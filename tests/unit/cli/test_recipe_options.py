"""Every field of the recipe is an option of the command line; options overrule the file."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from bluesky_multislice.cli.recipe_options import collect_recipe, recipe_options
from bluesky_multislice.errors import RecipeError
from bluesky_multislice.recipe import FrameProcessing, Recipe, Refine, Resources, ScanValues, Schedules

VALUES = {
    "propagation": "projection",
    "accuracy": 0.02,
    "edges": "outgoing",
    "interpolation": "fourier",
    "oversampling": 2,
    "point_spread_pixels": 1.5,
    "way_to_detector": "angular_spectrum",
    "slices": 3,
    "depth_um": 2.0,
    "polish": 2,
    "coarse_levels": 1,
    "first_propagation": "projection",
    "epochs": 3,
    "optimiser": "adam",
    "step": 2.0,
    "momentum": 0.97,
    "refine_probe": False,
    "probe_modes": 2,
    "probe_variations": 3,
    "absorption": False,
    "positivity": True,
    "total_variation": 0.1,
    "total_variation_z": 2.0,
    "total_variation_first": 3.0,
    "total_variation_floor": 0.3,
    "l1": 0.1,
    "smoothness_z": 0.1,
    "priors": {"vacuum": {"weight": 0.5}},
    "beta_over_delta_min": 0.01,
    "beta_over_delta_max": 0.1,
    "fidelity": "poisson",
    "start": "empty",
    "start_from": "former.h5",
    "find_axis": False,
    "align": False,
    "smoothing_by_held_back": True,
    "support": "cylinder",
    "saturated": "mask",
    "shell_correlation": True,
    "held_back_every": 7,
    "frames_in": "disk",
    "frames_memory_gib": 0.5,
    "illumination": "joint",
    "batch_views": 3,
    "batches_per_step": 3,
    "mesh": "2x1",
    "checkpoint_every": 3,
    "ranks": 2,
    "device": "cpu",
    "kernels": "general",
    "seed": 5,
    "refine_quantities": ("positions", "tilt"),
    "refine_from_epoch": 3,
    "refine_strength": 0.5,
    "refine_furthest_pixels": 4.0,
    "resources_nodes": 2,
    "resources_gpus_per_node": 4,
    "resources_cpus_per_task": 8,
    "resources_memory_gb": 100,
    "resources_walltime_minutes": 90,
    "resources_partition": "gpu",
    "resources_account": "beamline",
    "resources_qos": "live",
    "resources_constraint": "a100&ib",
    "resources_nice": 10,
    "refine_schedules": Schedules.model_validate({"probe": {"from_epoch": 2, "strength": 0.5, "bound": 1.5}}),
    "frames_region": "10:20,30:40",
    "frames_centre": "auto",
    "frames_size": "64x32",
    "frames_binning": 2,
    "frames_zingers": False,
    "frames_rings": True,
    "technique": "holography",
    "regime": "near_field",
    "energy_ev": 700.0,
    "distance_m": 2.0,
    "pixel_size_um": 55.0,
    "focus_distance_mm": -3.65,
    "source_size_um": 0.1,
    "divergence_urad": 2.0,
    "orientation": "transpose_flip_y",
    "detector_rotation_deg": 1.5,
    "axis_pixels": 412.5,
    "frames_per_view": "mean",
    "allow_aborted": True,
    "mask": "mask.npy",
    "mask_sense": "good_is_one",
    "saturation": 1000.0,
    "angle_deg": -90.0,
    "values": {"numerical_aperture": 0.03},
}


@click.command()
@recipe_options
def show(recipe_file, **options):
    print(collect_recipe(recipe_file, options).model_dump_json())


def chosen(*arguments):
    """The recipe that a command line gives."""
    done = CliRunner().invoke(show, [str(argument) for argument in arguments])
    if done.exception:
        raise done.exception
    return Recipe.model_validate_json(done.output)


def flag(name, value):
    option = name.replace("_", "-")
    if isinstance(value, tuple):
        return [part for each in value for part in (f"--{option}", each)]
    if option in ("refine-schedules", "priors"):
        nested = value.given if isinstance(value, Schedules) else value
        rows = [(name, field, number) for name, own in nested.items() for field, number in own.items()]
        return [part for row in rows for part in (f"--{option}", *row)]
    if isinstance(value, dict):
        return [part for name, number in value.items() for part in (f"--{option}", name, number)]
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", value]


def tables():
    """The fields of the recipe and of its tables: option, table and field."""
    for name in Recipe.model_fields:
        if name not in ("scan", "frames", "refine", "resources"):
            yield name, None, name
    yield from (("frames_" + name, "frames", name) for name in FrameProcessing.model_fields)
    yield from ((name, "scan", name) for name in ScanValues.model_fields)
    yield from (("refine_" + name, "refine", name) for name in Refine.model_fields)
    yield from (("resources_" + name, "resources", name) for name in Resources.model_fields)


@pytest.mark.parametrize(("option", "table", "field"), list(tables()))
def test_every_field_is_an_option(option, table, field):
    needed = flag("frames_centre", "auto") if option == "frames_size" else []
    recipe = chosen(*needed, *flag(option, VALUES[option]))
    assert getattr(getattr(recipe, table) if table else recipe, field) == VALUES[option]
    assert recipe != Recipe()


def test_no_options_are_the_defaults():
    assert chosen() == Recipe()


def test_options_overrule_the_file_and_leave_the_rest(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("epochs = 12\nseed = 3\n[scan]\nenergy_ev = 700.0\ndistance_m = 2.0\n")
    recipe = chosen("--recipe", path, "--epochs", 5, "--energy-ev", 800)
    assert (recipe.epochs, recipe.seed) == (5, 3)
    assert (recipe.scan.energy_ev, recipe.scan.distance_m) == (800, 2.0)


def test_one_number_of_a_schedule_overrules_the_file_and_leaves_the_rest(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        "[refine]\nquantities = ['tilt', 'positions']\n[refine.schedules.tilt]\nfrom_epoch = 4\nbound = 3.0\n"
        "[refine.schedules.positions]\nstrength = 0.5\n"
    )
    recipe = chosen("--recipe", path, "--refine-schedules", "tilt", "bound", 1, "--refine-strength", 2)
    assert recipe.refine.schedules.given == {
        "tilt": {"from_epoch": 4, "bound": 1},
        "positions": {"strength": 0.5},
    }
    assert (recipe.refine.quantities, recipe.refine.strength) == (("tilt", "positions"), 2)


def test_one_parameter_of_a_prior_overrules_the_file_and_leaves_the_rest(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("[priors.vacuum]\nweight = 0.25\n")
    assert chosen("--recipe", path).priors == {"vacuum": {"weight": 0.25}}
    assert chosen("--recipe", path, "--priors", "vacuum", "weight", 0.5).priors == {"vacuum": {"weight": 0.5}}


@pytest.mark.parametrize("row", [("colour", "bound", 1), ("tilt", "colour", 1), ("tilt", "bound", "far")])
def test_a_schedule_of_something_unknown_is_refused(row):
    done = CliRunner().invoke(show, ["--refine-schedules", *map(str, row)])
    assert done.exit_code == 2
    assert "refine-schedules" in done.output


@pytest.mark.parametrize("text", ["scan = 5", "colour = 'red'", "epochs = 0", "[scan]\ncolour = 'red'"])
def test_a_file_with_a_wrong_field_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.toml"):
        chosen("--recipe", path, "--distance-m", 2)


def test_an_option_out_of_range_is_refused():
    with pytest.raises(RecipeError, match=r"epochs.*command line"):
        chosen("--epochs", 0)


@pytest.mark.parametrize("words", [["--help"], ["reconstruct", "--help"]])
def test_help_waits_for_no_heavy_package(words):
    code = f"""
import sys
from bluesky_multislice.cli.commands import multislice
multislice({words}, standalone_mode=False)
print(sorted({{"torch", "scipy", "h5py", "numba", "prefect", "tiled"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--help" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
