"""The batch script: what of profile and allocation stands in it, and that bash reads it as meant."""

import subprocess

import pytest

from bluesky_multislice.jobs.schedulers import Allocation, SiteProfile
from bluesky_multislice.jobs.schedulers.batch_script import batch_script

HOSTILE = "a'b\"c $(touch /nowhere) `x` {{setup}} \\ #"


def script(allocation=None, **profile):
    profile = SiteProfile(**({"scheduler": "slurm", "ranks_per_node": 2, "memory_gb": 8} | profile))
    return batch_script(profile, allocation or Allocation(), name="a-name", module="the.module")


def directives(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_bash_can_read_it():
    text = script(environment={"A": HOSTILE}, container=(HOSTILE, "x"), python=HOSTILE, setup=("module load x",))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "{{" not in text.replace("{{setup}}", "")


@pytest.mark.parametrize(
    ("field", "value", "directive"),
    [
        ("nodes", 3, "--nodes=3"),
        ("gpus_per_node", 4, "--gpus-per-node=4"),
        ("cpus_per_task", 8, "--cpus-per-task=8"),
        ("memory_gb", 100, "--mem=100G"),
        ("walltime_minutes", 90, "--time=90"),
        ("partition", "gpu", "--partition=gpu"),
        ("account", "me", "--account=me"),
        ("qos", "live", "--qos=live"),
        ("constraint", "a100&ib", '--constraint="a100&ib"'),
        ("nice", 5, "--nice=5"),
    ],
)
def test_every_part_of_an_allocation_is_asked_for(field, value, directive):
    assert directive in directives(script(Allocation(**{field: value})))
    assert directive not in directives(script())


def test_what_every_job_has():
    found = directives(script(directives=("--reservation=beam",), warning_seconds=90))
    assert {"--job-name=a-name", "--export=NONE", "--requeue", "--signal=B:USR1@90", "--reservation=beam"} <= set(found)
    assert {"--output=log.txt", "--open-mode=append", "--ntasks-per-node=1"} <= set(found)


def test_values_of_the_profile_stay_words():
    text = script(environment={"A": HOSTILE}, container=(HOSTILE, "x"), python="py thon")
    line = next(line for line in text.splitlines() if line.startswith("export A="))
    said = subprocess.run(["bash", "-c", f'{line}\nprintf %s "$A"'], capture_output=True, text=True, check=True)
    assert said.stdout == HOSTILE
    line = next(line for line in text.splitlines() if line.startswith("launcher=("))
    said = subprocess.run(
        ["bash", "-c", f'{line})\nprintf "%s\\n" "${{launcher[@]}}"'], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[:3] == [HOSTILE, "x", "py thon"]


def test_threads_share_the_cores():
    assert "export OMP_NUM_THREADS=4 GOMP_SPINCOUNT=1000\n" in script(Allocation(ranks_per_node=2, cpus_per_task=8))
    assert "export OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000\n" in script(Allocation(ranks_per_node=4, cpus_per_task=2))


@pytest.mark.parametrize(("readers", "mask"), [("user", "077"), ("group", "027")])
def test_readers(readers, mask):
    assert f"umask {mask}\n" in script(readers=readers)
