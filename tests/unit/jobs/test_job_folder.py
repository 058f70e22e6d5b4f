import json

import pytest

from bluesky_multislice.errors import FramesError, JobError, PlanError
from bluesky_multislice.jobs import JobFolder, safe_name, write_json


@pytest.fixture
def folder(tmp_path):
    return JobFolder(tmp_path / "jobs" / "one").create()


def test_folder_is_private_and_can_be_made_again(folder):
    assert folder.path.stat().st_mode & 0o007 == 0
    folder.create()
    assert folder.result.parent.is_dir()


def test_job_round_trip(folder):
    folder.write_job(recipe={"epochs": 3}, plan={"ranks": 2}, origin={"uid": "abc"})
    assert folder.read_job() == {"version": 2, "recipe": {"epochs": 3}, "plan": {"ranks": 2}, "origin": {"uid": "abc"}}


@pytest.mark.parametrize("text", [None, '{"recipe": '])
def test_unreadable_job_is_refused(folder, text):
    if text is not None:
        folder.job.write_text(text)
    with pytest.raises(JobError, match=r"readable job\.json"):
        folder.read_job()


def test_a_job_of_another_version_is_refused(folder):
    write_json(folder.job, {"version": 1, "recipe": {}, "plan": {}, "origin": {}})
    with pytest.raises(JobError, match=r"must have version 2.*stage the scan again"):
        folder.read_job()


def test_our_own_error_comes_back_as_it_was(folder):
    folder.write_error(PlanError("Ranks fit the node.", got="9.", remedy="ask for fewer."))
    back = folder.read_error()
    assert type(back) is PlanError
    assert (back.rule, back.got, back.remedy) == ("Ranks fit the node.", "9.", "ask for fewer.")


def test_any_other_error_comes_back_as_a_job_error_that_names_the_log(folder):
    folder.write_error(ZeroDivisionError("float division"))
    back = folder.read_error()
    assert type(back) is JobError
    assert back.got == "ZeroDivisionError: float division"
    assert str(folder.log) in back.remedy


def test_no_error_is_none(folder):
    assert folder.read_error() is None


def test_error_of_frames_keeps_its_kind(folder):
    folder.write_error(FramesError("a", got="b", remedy="c"))
    assert isinstance(folder.read_error(), FramesError)


def test_progress_leaves_the_unfinished_line_for_the_next_call(folder):
    assert folder.read_progress() == []
    folder.progress.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert folder.read_progress() == [{"epoch": 1}, {"epoch": 2}]
    assert folder.read_progress(1) == [{"epoch": 2}]
    with folder.progress.open("a") as file:
        file.write('ch": 3}\n')
    assert folder.read_progress(2) == [{"epoch": 3}]


def test_json_that_cannot_be_written_leaves_the_old_file(folder):
    write_json(folder.job, {"version": 1})
    with pytest.raises(TypeError):
        write_json(folder.job, {"version": object()})
    assert json.loads(folder.job.read_text()) == {"version": 1}


def test_a_peer_that_only_saw_the_end_does_not_hide_the_first_error(folder):
    folder.write_error(FramesError("a", got="b", remedy="c"))
    folder.write_error(RuntimeError("Connection closed by peer"))
    assert isinstance(folder.read_error(), FramesError)


def test_an_interruption_takes_the_request_with_it_and_is_forgotten_by_the_next_run(folder):
    assert folder.read_interrupted() is None
    folder.request_stop()
    folder.write_interrupted(reason="stop-request", epoch=7)
    assert folder.read_interrupted() == {"reason": "stop-request", "epoch": 7}
    assert not folder.stop_request.exists()
    folder.checkpoints.mkdir()
    folder.clear_last_run()
    assert folder.read_interrupted() is None
    assert folder.checkpoints.exists()


def test_a_request_outlives_the_start_of_a_job_until_it_is_withdrawn(folder):
    folder.request_stop()
    folder.clear_last_run()
    assert folder.stop_request.exists()
    folder.withdraw_stop()
    assert not folder.stop_request.exists()


@pytest.mark.parametrize("readers", ["user", "group"])
def test_who_may_read_a_folder(tmp_path, readers):
    folder = JobFolder.under(tmp_path / "jobs", "scan", "run").create(readers)
    for path in (folder.path, folder.path.parent):
        assert path.stat().st_mode & 0o777 == {"user": 0o700, "group": 0o750}[readers]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="must be writable"):
        JobFolder(tmp_path / "file" / "job").create()


HOSTILE = (
    ".",
    "..",
    "../../etc",
    "/etc/passwd",
    "a/b",
    ".hidden",
    "-rf",
    "a\nb",
    "a\0b",
    "$(reboot)",
    "'\"",
    "",
    "x" * 10_000,
    "δ",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_the_root(tmp_path, name):
    folder = JobFolder.under(tmp_path, name, "run")
    assert folder.path.parent.parent == tmp_path
    assert folder.path.resolve() == folder.path
    assert folder.create().path.is_dir()


def test_names_that_are_words_stay_and_others_are_kept_apart():
    assert safe_name("a1B2-c3.d_4") == "a1B2-c3.d_4"
    names = {safe_name(name) for name in (*HOSTILE, "a b", "a  b", "x" * 9_999)}
    assert len(names) == len(HOSTILE) + 3
    assert all(safe_name(name) == name for name in names)


def test_the_end_of_the_log(folder):
    assert folder.read_log(3) == ""
    folder.log.write_bytes(b"1\n2\n\xff3\n")
    assert folder.read_log(2) == "2\n\ufffd3"
