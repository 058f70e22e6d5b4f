"""Checkpoints on one rank: what is kept, how a torn one is told, and what is refused."""

import json
import shutil

import pytest
import torch

from bluesky_multislice.errors import JobError
from bluesky_multislice.parallel import Checkpoints, join_mesh

IDENTITY = {"scan": "a", "plan": "b"}


@pytest.fixture
def opened(tmp_path):
    """Opens the checkpoints in a folder, as every run of a job does."""
    made = []

    def open_again(**identity):
        with join_mesh("cpu") as mesh:
            made.append(Checkpoints(tmp_path / "checkpoints", mesh, IDENTITY | identity))
        return made[-1]

    yield open_again
    for checkpoints in made:
        checkpoints.close()


def volume(epoch):
    return torch.full((1, 2, 3, 4), float(epoch))


def save(checkpoints, *epochs, fit="whole", **more):
    for epoch in epochs:
        tensors = {"volume/object": volume(epoch), "probe": torch.ones(3, dtype=torch.complex64)}
        checkpoints.save({"fit": fit, "epoch": epoch} | more, tensors | {"rank0/torch": torch.arange(5)})
    checkpoints.wait()


def places(checkpoints_folder):
    return sorted(path.name for path in checkpoints_folder.iterdir() if path.is_dir())


def warnings_of(checkpoints):
    return [event["warning"] for event in checkpoints.events if "warning" in event]


def test_what_was_saved_comes_back_in_another_run(opened):
    save(opened(), 1)
    record, tensors = opened().load("whole")
    assert record["epoch"] == 1
    assert torch.equal(tensors["volume/object"], volume(1))
    assert tensors["probe"].dtype == torch.complex64
    assert torch.equal(tensors["rank/torch"], torch.arange(5))
    assert opened().load("another fit") is None


def test_tensors_may_change_as_soon_as_saving_has_begun(opened):
    checkpoints, moved = opened(), torch.zeros(200, 200, 50)
    checkpoints.save({"fit": "whole", "epoch": 1}, {"volume/object": moved})
    moved += 1
    checkpoints.wait()
    assert not opened().load("whole")[1]["volume/object"].any()


def test_the_newest_two_are_kept_and_all_of_fits_that_have_ended(opened, tmp_path):
    checkpoints = opened()
    save(checkpoints, 1, fit="first", ended=True)
    save(checkpoints, 2, 3, 4, 5)
    assert places(tmp_path / "checkpoints") == ["000001", "000004", "000005"]
    again = opened()
    assert again.load("first")[0]["epoch"] == 1
    assert again.load("whole")[0]["epoch"] == 5
    save(again, 6)
    assert places(tmp_path / "checkpoints") == ["000001", "000005", "000006"]


def shorten(place):
    file = next(place.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-7])


def damage(place):
    """Other bytes in the middle of the volume, the same size."""
    file = next(place.glob("*.distcp"))
    stored = file.read_bytes()
    at = stored.index(volume(2).numpy().tobytes())
    file.write_bytes(stored[: at + 8] + b"\x00\x01" + stored[at + 10 :])


def lose(place):
    next(place.glob("*.distcp")).unlink()


def garble(place):
    (place / ".metadata").write_bytes(bytes((place / ".metadata").stat().st_size))


def empty(place):
    (place / "checkpoint.json").write_text("")


@pytest.mark.parametrize("tear", [shorten, damage, lose, garble, empty])
def test_of_a_torn_one_the_one_before_is_taken_and_a_later_run_still_knows(opened, tmp_path, tear):
    save(opened(), 1, 2)
    tear(tmp_path / "checkpoints" / "000002")
    checkpoints = opened()
    record, tensors = checkpoints.load("whole")
    assert record["epoch"] == 1
    assert torch.equal(tensors["volume/object"], volume(1))
    assert "damaged" in warnings_of(checkpoints)[0]
    save(checkpoints, 3, 4)
    again = opened()
    assert again.load("whole")[0]["epoch"] == 4
    assert "damaged" in warnings_of(again)[0]
    assert places(tmp_path / "checkpoints") == ["000003", "000004"]


def test_with_all_of_them_torn_there_is_none(opened, tmp_path):
    save(opened(), 1, 2)
    for place in (tmp_path / "checkpoints").glob("0*"):
        shorten(place)
    checkpoints = opened()
    assert checkpoints.load("whole") is None
    assert len(warnings_of(checkpoints)) == 2


def test_one_that_was_not_completed_is_not_taken_and_goes(opened, tmp_path):
    save(opened(), 1, 2)
    folder = tmp_path / "checkpoints"
    shutil.move(folder / "000002", folder / "000002.part")
    assert opened().load("whole")[0]["epoch"] == 1
    assert places(folder) == ["000001"]


@pytest.mark.parametrize("other", ["scan", "plan"])
def test_one_of_another_scan_or_plan_is_refused(opened, other):
    save(opened(), 7)
    with pytest.raises(JobError, match=f"epoch 7 that belongs to another {other}.*remove") as caught:
        opened(**{other: "else"})
    assert caught.value.rule == "A job can only resume from checkpoints of its own scan and plan."


def test_one_of_a_version_that_laid_volumes_otherwise_is_refused(opened, tmp_path):
    save(opened(), 7)
    path = tmp_path / "checkpoints/000001/checkpoint.json"
    record = json.loads(path.read_text())
    del record["identity"]["layout of volumes"]
    path.write_text(json.dumps(record))
    with pytest.raises(JobError, match="epoch 7 that belongs to another layout of volumes"):
        opened()


def test_a_disk_that_takes_nothing_is_said_and_the_last_good_one_stays(opened, tmp_path):
    checkpoints, folder = opened(), tmp_path / "checkpoints"
    save(checkpoints, 1)
    (folder / "000002.part").write_text("in the way of the folder")
    save(checkpoints, 2)
    assert "epoch 2 could not be written" in warnings_of(checkpoints)[0]
    (folder / "000002.part").unlink()
    assert opened().load("whole")[0]["epoch"] == 1
    save(checkpoints, 3)
    assert opened().load("whole")[0]["epoch"] == 3


def test_all_go_when_the_job_is_done(opened, tmp_path):
    checkpoints = opened()
    save(checkpoints, 1)
    checkpoints.clear()
    assert not (tmp_path / "checkpoints").exists()
