"""The command line from file to file: simulate, then reconstruct; every choice and every refusal."""

import json
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from typing import get_args

import h5py
import numpy as np
import psutil
import pytest
from command_line import (
    COMMAND,
    describe_scan,
    installed_multislice,
    multislice,
    read_frames,
    refused,
    write_changed,
    write_volume,
)
from scipy.constants import elementary_charge
from small_scan import ball, blank, hologram_geometry, hologram_scan, pattern_scan, relative_error, thick_scan

from bluesky_multislice.choices import Propagation
from bluesky_multislice.files import read_provenance, read_scan, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.measurement import Frames, Scan, unorient

PROBE = "entry_1/instrument_1/source_1/probe"
ENERGY = "entry_1/instrument_1/source_1/energy"
DISTANCE = "entry_1/instrument_1/detector_1/distance"


def leftovers(folder, *expected):
    """Names in a folder besides the expected ones."""
    return {path.name for path in folder.iterdir()} - set(expected)


@pytest.fixture(scope="module")
def hologram_file(tmp_path_factory):
    """A simulated hologram scan with its volume, made by the command."""
    folder = tmp_path_factory.mktemp("holograms")
    scan, delta = thick_scan()
    write_volume(folder / "volume.h5", delta)
    describe_scan(folder / "scan.cxi", scan)
    done = installed_multislice("simulate", folder / "volume.h5", folder / "scan.cxi", "-o", folder / "frames.cxi")
    assert done.returncode == 0, done.stdout
    return folder / "frames.cxi"


@pytest.fixture
def small_file(tmp_path):
    """A scan small enough for a second's fit."""
    write_scan(tmp_path / "scan.cxi", hologram_scan())
    return tmp_path / "scan.cxi"


def test_simulated_frames_are_those_of_the_model(hologram_file):
    scan, _ = thick_scan()
    frames = read_frames(hologram_file)
    assert frames.dtype == np.float64
    np.testing.assert_allclose(frames, scan.frames.read(np.arange(len(frames))), rtol=1e-4)
    assert leftovers(hologram_file.parent, "volume.h5", "scan.cxi", "frames.cxi") == set()


def test_what_a_scan_lacks_is_given_to_simulate(hologram_file, tmp_path):
    described = shutil.copy(hologram_file.with_name("scan.cxi"), tmp_path)
    with h5py.File(described, "r+") as file:
        energy_ev, distance_m = file[ENERGY][()] / elementary_charge, file[DISTANCE][()]
        del file[ENERGY], file[DISTANCE]
    instrument = tmp_path / "hutch.toml"
    instrument.write_text(f'name = "hutch"\n[fields.distance]\nvalue = {distance_m}\nunit = "m"\n')
    simulate = ("simulate", hologram_file.with_name("volume.h5"), described, "-o", tmp_path / "frames.cxi")
    assert refused(installed_multislice(*simulate, "--instrument", instrument), "energy", "--energy-ev")
    done = multislice(*simulate, "--instrument", instrument, "--energy-ev", energy_ev)
    assert done.returncode == 0, done.stdout
    np.testing.assert_allclose(read_frames(tmp_path / "frames.cxi"), read_frames(hologram_file), rtol=1e-6)


def test_holograms_become_the_volume_on_two_ranks(hologram_file, tmp_path):
    words = ("reconstruct", hologram_file, "-o", tmp_path / "result.h5", "--ranks", 2, "--held-back-every", 5)
    done = installed_multislice(*words)
    assert done.returncode == 0, done.stdout
    assert "validation" in done.stdout
    assert "verdict: good" in done.stdout
    _, truth = thick_scan()
    with h5py.File(tmp_path / "result.h5") as file:
        assert relative_error(file["delta"], truth) < 0.4
        assert file["delta"].dtype == file["beta"].dtype == np.float32
        assert file["beta"].shape == truth.shape
        for name in ("delta", "beta"):
            attributes = dict(file[name].attrs)
            np.testing.assert_allclose(attributes["voxel_size_m"], 1e-9)
            assert attributes["energy_ev"] == pytest.approx(1239.841984, rel=1e-6)
            assert list(attributes["axes"]) == ["z", "y", "x"]
        assert file["probe"].dtype == np.complex64
        assert file["positions"].shape == (16, 2)
        epochs = file["history/epoch"][()]
        np.testing.assert_array_equal(epochs, np.arange(1, len(epochs) + 1))
        assert file.attrs["verdict"] == "good"
        assert 0 < file["frame_r_factors"][()].min() < file["frame_r_factors"][()].max() < 0.1
        assert {"loss", "held_back_loss", "seconds", "coarseness"} <= set(file["history"])
        assert file["history/loss"].shape == epochs.shape
        provenance = json.loads(file["provenance"][()])
    assert provenance["machine"]["ranks"] == 2
    assert provenance["origin"]["file"] == str(hologram_file)
    assert provenance["inputs"][0]["path"] == str(hologram_file)
    assert leftovers(tmp_path, "result.h5") == set()


def test_patterns_of_an_unknown_probe_become_the_volume(tmp_path):
    scan, truth = pattern_scan()
    write_volume(tmp_path / "volume.h5", truth)
    describe_scan(tmp_path / "scan.cxi", scan)
    frames, result = tmp_path / "frames.cxi", tmp_path / "result.h5"
    done = multislice("simulate", tmp_path / "volume.h5", tmp_path / "scan.cxi", "-o", frames, "--photons", 1e7)
    assert done.returncode == 0, done.stdout
    with h5py.File(frames, "r+") as file:
        del file[PROBE]
    done = multislice("reconstruct", frames, "-o", result, "--ranks", 1)
    assert done.returncode == 0, done.stdout
    with h5py.File(result) as file:
        assert relative_error(file["delta"], truth) < 0.4
    figures = read_provenance(result)["figures"]
    assert figures["held_back_r_factor"] < 0.05


def test_simulated_frames_are_stored_as_the_described_detector_turns_them(tmp_path):
    clean, orientation = hologram_scan(), "transpose_flip_y"
    views = np.arange(8)
    stored = unorient(clean.frames.read(views), orientation)
    turned = Scan(clean.geometry, Frames(np.zeros_like(stored), orientation=orientation))
    describe_scan(tmp_path / "scan.cxi", turned)
    write_volume(tmp_path / "volume.h5", ball(), ratio=0.1)
    done = multislice("simulate", tmp_path / "volume.h5", tmp_path / "scan.cxi", "-o", tmp_path / "frames.cxi")
    assert done.returncode == 0, done.stdout
    np.testing.assert_allclose(read_frames(tmp_path / "frames.cxi"), stored, rtol=1e-4)
    np.testing.assert_allclose(
        read_scan(tmp_path / "frames.cxi").frames.read(views), clean.frames.read(views), rtol=1e-4
    )


def test_photons_scale_frames_and_probe_and_follow_the_seed(tmp_path):
    scan, delta = pattern_scan(angles=1)
    write_volume(tmp_path / "volume.h5", delta)
    describe_scan(tmp_path / "scan.cxi", scan)
    frames = []
    for seed in (1, 2):
        path = tmp_path / f"frames{seed}.cxi"
        choice = ("--photons", 1e4, "--seed", seed)
        done = multislice("simulate", tmp_path / "volume.h5", tmp_path / "scan.cxi", "-o", path, *choice)
        assert done.returncode == 0, done.stdout
        frames.append(read_frames(path))
    assert (frames[0] != frames[1]).any()
    np.testing.assert_array_equal(frames[0], np.rint(frames[0]))
    assert frames[0].sum((1, 2)).mean() == pytest.approx(1e4, rel=0.01)
    with h5py.File(path) as file:
        energy = float(np.square(np.abs(file[PROBE][()])).sum())
    assert energy == pytest.approx(frames[1].sum((1, 2)).mean(), rel=0.3)  # the sample absorbs the rest


@pytest.mark.parametrize("choice", [("--slices", 4), *(("--propagation", name) for name in get_args(Propagation))])
def test_the_model_of_a_simulation_is_a_choice(hologram_file, tmp_path, choice):
    folder = hologram_file.parent
    done = multislice("simulate", folder / "volume.h5", folder / "scan.cxi", "-o", tmp_path / "frames.cxi", *choice)
    assert done.returncode == 0, done.stdout
    error = relative_error(read_frames(tmp_path / "frames.cxi"), read_frames(hologram_file))
    if "multislice" in choice:
        assert error == 0
    else:
        assert (0 if "tiled-multislice" in choice else 1e-4) < error < 0.1


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (("--seed", 3), "--photons"),
        (("--photons", -3), "photons"),
        (("--photons", "nan"), "photons"),
        (("--slices", 500), "at least one plane"),
        (("--slices", 0), "at least one plane"),
    ],
)
def test_a_wrong_choice_for_a_simulation_is_refused(hologram_file, tmp_path, choice, words):
    folder = hologram_file.parent
    done = multislice("simulate", folder / "volume.h5", folder / "scan.cxi", "-o", tmp_path / "frames.cxi", *choice)
    assert refused(done, words)
    assert leftovers(tmp_path) == set()


def test_a_simulation_says_what_is_wrong_with_its_files(hologram_file, tmp_path):
    folder = hologram_file.parent
    volume, scan, out = folder / "volume.h5", folder / "scan.cxi", tmp_path / "frames.cxi"
    coarse = write_volume(tmp_path / "coarse.h5", np.zeros((8, 8, 8)), voxel_m=2e-9)
    assert refused(multislice("simulate", coarse, scan, "-o", out), "PlanError", "object pixel")
    assert refused(multislice("simulate", volume, tmp_path / "none.cxi", "-o", out), "none.cxi")
    assert refused(multislice("simulate", volume, scan, "-o", tmp_path / "none" / "frames.cxi"), "must exist")
    assert leftovers(tmp_path, "coarse.h5") == set()


def test_options_overrule_the_recipe_file(small_file, tmp_path):
    (tmp_path / "recipe.toml").write_text('propagation = "projection"\nepochs = 4\nranks = 1\nseed = 9\n')
    result = tmp_path / "result.h5"
    arguments = ("--recipe", tmp_path / "recipe.toml", "--propagation", "finite-difference", "--epochs", 2)
    done = multislice("reconstruct", small_file, "-o", result, *arguments)
    assert done.returncode == 0, done.stdout
    provenance = read_provenance(result)
    recipe = provenance["recipe"]
    assert (recipe["propagation"], recipe["epochs"], recipe["seed"]) == ("finite-difference", 2, 9)
    assert (provenance["figures"]["model"], provenance["figures"]["epochs"]) == ("finite-difference", 2)


def test_two_halves_of_the_views_give_the_resolution_on_every_rank(small_file, tmp_path):
    result = tmp_path / "result.h5"
    done = multislice("reconstruct", small_file, "-o", result, "--shell-correlation", "--epochs", 3, "--ranks", 2)
    assert done.returncode == 0, done.stdout
    resolution_m = read_provenance(result)["figures"]["half_bit_resolution_m"]
    assert f"half-bit resolution {resolution_m * 1e9:.3g} nm" in " ".join(done.stdout.split())
    with h5py.File(result) as file:
        curves = {name: column[()] for name, column in file["shell_correlation"].items()}
    assert set(curves) == {"frequency_per_m", "correlation", "half_bit"}
    assert len({column.shape for column in curves.values()}) == 1


def test_an_instrument_file_fills_in_what_the_scan_lacks(small_file, tmp_path):
    with h5py.File(small_file, "r+") as file:
        del file["entry_1/instrument_1/source_1/energy"]
    arguments = ("reconstruct", small_file, "-o", tmp_path / "result.h5", "--epochs", 1, "--ranks", 1)
    assert refused(multislice(*arguments), "ScanError", "energy", "scan.energy_ev", "instrument file")
    (tmp_path / "beamline.toml").write_text('name = "B1"\n[fields.energy]\nvalue = 2.48\nunit = "keV"\n')
    done = multislice(*arguments, "--instrument", tmp_path / "beamline.toml")
    assert done.returncode == 0, done.stdout
    assert read_provenance(tmp_path / "result.h5")["origin"]["sources"]["energy"] == "instrument file B1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--epochs", 0), ("RecipeError", "epochs", "greater than or equal to 1")),
        (("--ranks", 99), ("PlanError", "99 ranks for 8")),
        (("--held-back-every", 1), ("PlanError", "held_back_every 1")),
        (("--slices", 700), ("PlanError", "at least one plane")),
        (("--focus-distance-mm", 0), ("ScanError", "focus")),
    ],
)
def test_a_setting_out_of_range_is_refused(small_file, tmp_path, arguments, words):
    done = multislice("reconstruct", small_file, "-o", tmp_path / "result.h5", *arguments)
    assert refused(done, *words)
    assert leftovers(tmp_path, "scan.cxi") == set()


def test_an_unknown_field_of_the_recipe_is_refused(small_file, tmp_path):
    (tmp_path / "recipe.toml").write_text("iterations = 5\n")
    arguments = ("reconstruct", small_file, "-o", tmp_path / "result.h5", "--recipe", tmp_path / "recipe.toml")
    assert refused(multislice(*arguments), "RecipeError", "iterations", "recipe.toml", "held_back_every")


def spoil(value):
    def change(frames):
        frames[2, 3, 4] = value

    return change


@pytest.mark.parametrize(
    ("value", "ranks", "words"),
    [
        (np.nan, 2, ("FramesError", "1 NaN or infinite pixels in view 2")),
        pytest.param(-1.0, 1, ("FramesError", "1 negative pixels in view 2"), marks=pytest.mark.matrix),
        pytest.param(1e9, 1, ("FramesError", "1 saturated", "view 2"), marks=pytest.mark.matrix),
    ],
)
def test_frames_that_cannot_be_used_end_in_one_clear_error_and_no_result(tmp_path, value, ranks, words):
    scan = hologram_scan()
    limited = replace(scan, frames=Frames(scan.frames.read(np.arange(8)), saturation=1e6))
    path = write_changed(tmp_path / "scan.cxi", limited, spoil(value))
    done = multislice("reconstruct", path, "-o", tmp_path / "result.h5", "--ranks", ranks)
    assert refused(done, *words)
    assert leftovers(tmp_path, "scan.cxi") == set()


def test_files_and_folders_that_are_not_there_are_named(small_file, tmp_path):
    assert refused(multislice("reconstruct", tmp_path / "none.cxi", "-o", tmp_path / "result.h5"), "none.cxi")
    missing = tmp_path / "none" / "result.h5"
    assert refused(multislice("reconstruct", small_file, "-o", missing), "must exist", str(missing.parent))
    assert refused(multislice("reconstruct", small_file, "-o", small_file), "must not overwrite the scan")
    assert len(read_frames(small_file)) == 8
    write_scan(tmp_path / "dark.cxi", blank(hologram_geometry()))
    done = multislice("reconstruct", tmp_path / "dark.cxi", "-o", tmp_path / "result.h5", "--ranks", 1)
    assert refused(done, "FramesError", "light")
    assert leftovers(tmp_path, "scan.cxi", "dark.cxi") == set()


def test_a_former_result_is_replaced_by_a_complete_one_only(small_file, tmp_path):
    result = tmp_path / "result.h5"
    result.write_text("the former result")
    arguments = ("reconstruct", small_file, "-o", result, "--ranks", 1)
    # Two epochs are not enough for the steps to be halved as often as needed.
    diverging = installed_multislice(*arguments, "--step", 100, "--no-positivity", "--epochs", 2)
    assert refused(diverging, "JobError", "diverge", "smaller step")
    assert leftovers(tmp_path, "scan.cxi", "result.h5") == set()
    assert result.read_text() == "the former result"
    done = installed_multislice(*arguments, "--epochs", 1)
    assert done.returncode == 0, done.stdout
    assert read_provenance(result)["figures"]["epochs"] == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.matrix)])
def test_a_reconstruction_that_is_ended_takes_its_ranks_with_it(small_file, tmp_path, sent):
    command = [COMMAND, "reconstruct", small_file, "-o", tmp_path / "result.h5", "--ranks", "2", "--epochs", "10000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        folder = wait_for(lambda: next(tmp_path.glob(".result.h5.*"), None))
        wait_for(lambda: list(folder.glob("progress.jsonl")) or process.poll() is not None)
        ranks = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(sent)
        assert process.wait(timeout=60) != 0
    assert len(ranks) >= 3, "torchrun and two ranks"
    assert not [rank for rank in ranks if rank.is_running()]
    assert leftovers(tmp_path, "scan.cxi") == set()


def test_a_reconstruction_that_was_ended_goes_on_in_its_job_folder(small_file, tmp_path):
    result, job = tmp_path / "result.h5", JobFolder(tmp_path / "job")
    words = ["reconstruct", small_file, "-o", result, "--job-folder", job.path, "--ranks", 1, "--epochs", 60]
    process = subprocess.Popen([str(COMMAND), *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(job.read_progress()) > 2, timeout_s=120)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    epoch = job.read_interrupted()["epoch"]
    assert not result.exists()
    assert refused(installed_multislice(*words, "--seed", 3), "another plan", "remove")
    done = installed_multislice(*words)
    assert done.returncode == 0, done.stdout
    assert read_provenance(result)["machine"]["resumed"] == [{"epoch": epoch, "ranks": 1}]
    assert job.job.exists()


def wait_for(condition, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found
