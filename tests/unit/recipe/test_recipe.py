from typing import get_args

import pytest
from pydantic import ValidationError

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.measurement import REFINED_QUANTITIES, Quantity
from bluesky_multislice.recipe import Recipe, Refine, ScanValues, Schedules, make_recipe, read_recipe


def scheduled(name, **schedule):
    """A recipe with a schedule of one thing that is refined."""
    quantities = [name] if name in get_args(Quantity) else []
    return {"refine": {"quantities": quantities, "schedules": {name: schedule}}}


def test_every_field_has_a_default_and_a_description():
    schedules = {field.annotation for field in Schedules.model_fields.values()}
    for model in (Recipe, Refine, ScanValues, Schedules, *schedules):
        model()
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"iterations": 10}, "iterations: Extra inputs"),
        ({"scan": {"energy_kev": 6.2}}, "scan.energy_kev: Extra inputs"),
        ({"propagation": "magic"}, "propagation"),
        ({"slices": 0}, "slices"),
        ({"slices": 4097}, "slices"),
        ({"depth_um": 0}, "depth_um"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 10_001}, "epochs"),
        ({"optimiser": "newton"}, "optimiser"),
        ({"step": 0}, "step"),
        ({"step": 101}, "step"),
        ({"momentum": 1}, "momentum"),
        ({"probe_modes": 0}, "probe_modes"),
        ({"probe_modes": 17}, "probe_modes"),
        ({"total_variation": -1}, "total_variation"),
        ({"total_variation": 11}, "total_variation"),
        ({"total_variation_z": -1}, "total_variation_z"),
        ({"total_variation_first": 0.5}, "total_variation_first"),
        ({"total_variation_floor": 0}, "total_variation_floor"),
        ({"l1": -1}, "l1"),
        ({"smoothness_z": -1}, "smoothness_z"),
        ({"beta_over_delta_min": -1}, "beta_over_delta_min"),
        ({"beta_over_delta_max": -1}, "beta_over_delta_max"),
        ({"beta_over_delta_min": 0.2, "beta_over_delta_max": 0.1}, "must not exceed"),
        ({"fidelity": "exact"}, "fidelity"),
        ({"support": "sphere"}, "support"),
        ({"saturated": "ignore"}, "saturated"),
        ({"held_back_every": -1}, "held_back_every"),
        ({"batch_views": 0}, "batch_views"),
        ({"ranks": 0}, "ranks"),
        ({"device": "tpu"}, "device"),
        ({"seed": -1}, "seed"),
        ({"depth_um": float("inf")}, "depth_um"),
        ({"step": float("nan")}, "step"),
        ({"scan": {"angle_deg": float("nan")}}, "scan.angle_deg"),
        ({"scan": {"distance_m": float("inf")}}, "scan.distance_m"),
        ({"refine": {"quantities": ["colour"]}}, "refine.quantities"),
        ({"refine": {"from_epoch": 0}}, "refine.from_epoch"),
        ({"refine": {"strength": 0}}, "refine.strength"),
        ({"refine": {"strength": 101}}, "refine.strength"),
        ({"refine": {"furthest_pixels": 0}}, "refine.furthest_pixels"),
        ({"refine": {"furthest_pixels": 65}}, "refine.furthest_pixels"),
        (scheduled("colour", bound=1), "refine.schedules.colour: Extra inputs"),
        (scheduled("positions", colour=1), "refine.schedules.positions.colour: Extra inputs"),
        (scheduled("positions", from_epoch=0), "refine.schedules.positions.from_epoch"),
        (scheduled("positions", from_epoch=1.5), "refine.schedules.positions.from_epoch"),
        (scheduled("positions", strength=0), "refine.schedules.positions.strength"),
        (scheduled("positions", strength=101), "refine.schedules.positions.strength"),
        (scheduled("positions", bound=0), "refine.schedules.positions.bound"),
        (scheduled("positions", bound=65), "refine.schedules.positions.bound"),
        (scheduled("distance", bound=1), "refine.schedules.distance.bound: Input should be less than 1"),
        (scheduled("defocus", bound=1001), "refine.schedules.defocus.bound"),
        (scheduled("probe", bound=0.9), "refine.schedules.probe.bound: Input should be greater than or equal to 1"),
        ({"refine": {"quantities": ["tilt"], "schedules": {"angle": {"bound": 1}}}}, "not refined: angle"),
        ({"refine": {"schedules": {"probe_variations": {"bound": 0.5}}}}, "needs probe_variations of at least 1"),
        ({"refine": {"schedules": {"probe": {"bound": 2}}}, "refine_probe": False}, "needs a refined probe"),
        ({"scan": {"technique": "tomography"}}, "scan.technique"),
        ({"scan": {"regime": "middle_field"}}, "scan.regime"),
        ({"scan": {"energy_ev": 6.2}}, "scan.energy_ev: Value error, 6.2 eV"),
        ({"scan": {"energy_ev": -8000}}, "scan.energy_ev: Input should be greater than 10"),
        ({"scan": {"energy_ev": 20}}, "keV where eV belongs: 20000 eV"),
        ({"scan": {"energy_ev": 6.2}}, "looks like keV where eV belongs: 6200 eV"),
        ({"scan": {"values": {"colour": 1.0}}}, "scan.values: Value error, unknown values colour"),
        ({"scan": {"pixel_size_um": 0}}, "scan.pixel_size_um"),
        ({"scan": {"orientation": "upside_down"}}, "scan.orientation"),
        ({"scan": {"saturation": 0}}, "scan.saturation"),
    ],
)
def test_wrong_value_is_named_with_its_origin(values, fault):
    with pytest.raises(RecipeError) as caught:
        make_recipe(values, origin="recipe.toml")
    assert fault in caught.value.got
    assert "in recipe.toml" in caught.value.got
    assert "held_back_every" in caught.value.remedy


def test_everything_that_can_be_refined_has_a_schedule():
    assert tuple(REFINED_QUANTITIES) == get_args(Quantity)
    assert tuple(Schedules.model_fields) == (*get_args(Quantity), "probe", "probe_variations")


def test_all_faults_come_at_once():
    with pytest.raises(RecipeError) as caught:
        make_recipe({"epochs": 0, "colour": "red"}, origin="the form")
    assert "epochs" in caught.value.got
    assert "colour" in caught.value.got


def test_recipe_is_frozen():
    with pytest.raises(ValidationError):
        Recipe().epochs = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_equal_recipes_have_equal_digests_and_every_field_counts():
    other = {
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
        "probe_variations": 2,
        "step": 2.0,
        "momentum": 0.97,
        "refine_probe": False,
        "probe_modes": 2,
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
        "support": "cylinder",
        "saturated": "mask",
        "shell_correlation": True,
        "held_back_every": 7,
        "frames_in": "disk",
        "frames_memory_gib": 0.5,
        "illumination": "joint",
        "start": "empty",
        "start_from": "former.h5",
        "frames": {"binning": 2},
        "find_axis": False,
        "align": False,
        "smoothing_by_held_back": True,
        "batch_views": 3,
        "batches_per_step": 3,
        "mesh": "2x1",
        "checkpoint_every": 4,
        "ranks": 2,
        "device": "cpu",
        "kernels": "general",
        "seed": 5,
        "resources": {"qos": "live"},
        "refine": {"quantities": ("positions",)},
        "scan": {"energy_ev": 700},
    }
    assert set(other) == set(Recipe.model_fields)
    assert make_recipe({}, origin="here").digest() == Recipe().digest()
    digests = {make_recipe({name: value}, origin="here").digest() for name, value in other.items()}
    assert len(digests - {Recipe().digest()}) == len(other)


def test_an_option_that_a_later_release_adds_changes_no_digest():
    class LaterRecipe(Recipe):
        further: int = 1

    assert LaterRecipe(epochs=3).digest() == Recipe(epochs=3).digest()
    assert LaterRecipe(further=2).digest() != Recipe().digest()


def test_file_is_read_with_its_scan_table(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('propagation = "projection"\nepochs = 12\n[scan]\nenergy_ev = 700.0\norientation = "flip_y"\n')
    recipe = make_recipe(read_recipe(path), origin=str(path))
    assert (recipe.propagation, recipe.epochs) == ("projection", 12)
    assert (recipe.scan.energy_ev, recipe.scan.orientation) == (700.0, "flip_y")


@pytest.mark.parametrize("text", [b"epochs = ", b"\xff\xfe", None])
def test_file_that_is_no_toml_or_missing_is_refused(tmp_path, text):
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(RecipeError, match=r"readable TOML.*recipe\.toml"):
        read_recipe(path)
