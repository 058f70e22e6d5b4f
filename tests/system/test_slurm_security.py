"""Nothing of a scan, a recipe or the caller's environment reaches a shell, and job folders are private."""

import stat
import subprocess

import pytest
from slurm_jobs import ONE, ended, ranks_of, room, scheduler, staged

from bluesky_multislice.errors import SchedulerError
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import Job, JobState

pytestmark = pytest.mark.system
__all__ = ["room"]

HOSTILE = {
    "quotes": "a\"b'c",
    "newline": "a\nreboot\n",
    "directive": "a\n#SBATCH --uid=65534\n#SBATCH --wrap=reboot",
    "command": "$(touch {mark}) `touch {mark}`; touch {mark} & touch {mark} | touch {mark}",
    "climbs": "../../../../{mark}",
    "option": "--wrap=touch {mark}",
    "pattern": "%j%x%u*?[a]~",
    "long": "x" * 10_000,
    "letters": "δ\u202eβ",
}


@pytest.fixture
def mark(room):
    """A file that hostile values try to make."""
    yield room / "mark"
    assert not (room / "mark").exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_is_a_name_only(room, mark, kind):
    """The job waits: what counts is what Slurm made of its name, and that it is found by it."""
    name = HOSTILE[kind].format(mark=mark)
    slurm = scheduler(directives=("--begin=now+1hour",))
    job = slurm.submit(staged(room / "job"), name=name, allocation=ONE)
    ((word, job_id),) = slurm.active_jobs().items()
    assert job_id == job.id
    assert word.isascii()
    assert len(word) <= 100
    assert set("\n/ '\"$;`&|") & set(word) == set()
    job.folder.record.unlink()
    assert scheduler().adopt(job.folder, name=name) == job
    slurm.cancel(job)


def test_hostile_folders_and_environments_reach_the_ranks_as_they_are(room, mark):
    values = {f"HOSTILE_{kind}": HOSTILE[kind].format(mark=mark) for kind in ("quotes", "command", "option", "pattern")}
    place = room / "a b'c\"$(touch mark);touch mark"
    place.mkdir()
    folder = staged(place / "job", result=True)
    slurm = scheduler(environment=values)
    assert ended(slurm, slurm.submit(folder, name="hostile", allocation=ONE)).state is JobState.COMPLETED
    (rank,) = ranks_of(folder, 1)
    assert {name: rank["environment"].get(name) for name in values} == values
    assert folder.log.exists()


@pytest.mark.parametrize("name", ["a%j", "a\\b", "a\nb"])
def test_a_folder_whose_name_slurm_takes_for_a_pattern_is_refused(room, name):
    with pytest.raises(SchedulerError, match="MULTISLICE_JOBS_ROOT"):
        scheduler().submit(staged(room / name), name="pattern", allocation=ONE)
    assert scheduler().active_jobs() == {}


def test_the_callers_environment_and_its_defaults_stay_outside(room, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("MY_SECRET", "0123456789abcdef")
    monkeypatch.setenv("PLAIN", "0123456789abcdef")
    monkeypatch.setenv("SBATCH_EXPORT", "ALL")
    monkeypatch.setenv("SBATCH_JOB_NAME", "another")
    folder, slurm = staged(room / "job", result=True), scheduler()
    job = slurm.submit(folder, name="mine", allocation=ONE)
    assert slurm.active_jobs() == {"mine": job.id}
    assert ended(slurm, job).state is JobState.COMPLETED
    (rank,) = ranks_of(folder, 1)
    assert "0123456789abcdef" not in rank["environment"].values()
    (folder.path / "rank-0.json").unlink()
    for path in folder.path.rglob("*"):
        assert path.is_dir() or b"0123456789abcdef" not in path.read_bytes()


def test_a_key_that_reaches_the_batch_script_goes_no_further(room, cluster):
    """As where a person starts the job by hand with all of an environment, or a node's login has keys."""
    slurm = scheduler(setup=("export AFTERWARDS=seen",), directives=("--begin=now+1hour",))
    folder = staged(room / "job", result=True)
    slurm.cancel(slurm.submit(folder, name="stub", allocation=ONE))
    keys = {"TILED_API_KEY": "0123456789abcdef", "my_password": "0123456789abcdef", "PLAIN": "0"}
    said = subprocess.run(
        ["sbatch", "--parsable", "--export=ALL", "--begin=now", f"--chdir={folder.path}", folder.path / "job.sh"],
        env=cluster.environment | keys,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended(slurm, Job(said.stdout.strip(), folder)).state is JobState.COMPLETED
    (rank,) = ranks_of(folder, 1)
    assert "0123456789abcdef" not in rank["environment"].values()
    assert (rank["environment"]["PLAIN"], rank["environment"]["AFTERWARDS"]) == ("0", "seen")


@pytest.mark.parametrize(("readers", "mode", "mask"), [("user", 0o700, 0o077), ("group", 0o750, 0o027)])
def test_job_folders_and_what_the_job_writes_are_private(room, readers, mode, mask):
    """Slurm's daemon writes the log itself; it lies in the private folder."""
    folder = JobFolder.under(room, "scan", "run").create(readers)
    staged(folder.path, result=True)
    slurm = scheduler(readers=readers)
    assert ended(slurm, slurm.submit(folder, name="private", allocation=ONE)).state is JobState.COMPLETED
    for path in (folder.path, folder.path.parent):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    for path in (folder.result, folder.path / "rank-0.json", folder.path / "exit-status"):
        assert stat.S_IMODE(path.stat().st_mode) & mask == 0
