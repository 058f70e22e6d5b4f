"""Site profiles: the examples, what a recipe may change, and values that must reach no batch script."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from bluesky_multislice.errors import PlanError, RecipeError, SchedulerError
from bluesky_multislice.jobs.schedulers import Allocation, SiteProfile, allocate, machine_of, read_site
from bluesky_multislice.jobs.schedulers.site import Overrides
from bluesky_multislice.planning import Machine
from bluesky_multislice.recipe import Resources

EXAMPLES = sorted((Path(__file__).resolve().parents[4] / "deploy" / "slurm").glob("*.toml"))
NAMES = ("partition", "account", "qos", "constraint")
NUMBERS = ("nodes", "gpus_per_node", "cpus_per_task", "memory_gb", "walltime_minutes", "nice")
HOSTILE = (
    'a"b',
    "a'b",
    "a\nb",
    "a\n#SBATCH --uid=root",
    "$(reboot)",
    "`reboot`",
    "../x",
    "-x",
    "a b",
    "a;b",
    "x" * 10_000,
    "",
)
CLUSTER = {"scheduler": "slurm", "nodes": 2, "gpus_per_node": 2, "gpu_memory_gb": 80, "walltime_minutes": 30}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_read(path):
    assert read_site(path).name
    assert len(EXAMPLES) == 3


def test_without_a_file_jobs_run_on_this_machine():
    assert read_site(None).scheduler == "local"
    assert allocate(read_site(None), Resources(), ranks=3) == Allocation(ranks_per_node=3)


@pytest.mark.parametrize(
    "text", ["colour = 'red'", "nodes = 0", "partition = ", "scheduler = 'slurm'", "[environment]\n'A B' = 'x'"]
)
def test_a_wrong_profile_is_refused_with_its_path(tmp_path, text):
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(SchedulerError, match=r"site\.toml"):
        read_site(path)


def test_a_missing_profile_is_refused(tmp_path):
    with pytest.raises(SchedulerError, match="readable TOML"):
        read_site(tmp_path / "none.toml")


@pytest.mark.parametrize("field", Resources.model_fields)
def test_a_recipe_changes_nothing_unless_the_profile_says_so(field):
    value = "a" if field in NAMES else 1
    profile = SiteProfile(**CLUSTER)
    with pytest.raises(RecipeError, match=rf"resources\.{field} = .*the site's value only"):
        allocate(profile, Resources(**{field: value}), ranks=1)


@pytest.mark.parametrize("field", NAMES)
def test_a_name_is_one_of_those_allowed(field):
    profile = SiteProfile(**CLUSTER, overrides=Overrides(**{field: ("a", "b")}))
    assert getattr(allocate(profile, Resources(**{field: "b"}), ranks=1), field) == "b"
    assert getattr(allocate(profile, Resources(), ranks=1), field) is None
    with pytest.raises(RecipeError, match="one of a, b"):
        allocate(profile, Resources(**{field: "c"}), ranks=1)


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_is_at_most_what_is_allowed(field):
    profile = SiteProfile(**CLUSTER, overrides=Overrides(**{field: 4}))
    assert getattr(allocate(profile, Resources(**{field: 4}), ranks=4), field) == 4
    with pytest.raises(RecipeError, match="at most 4"):
        allocate(profile, Resources(**{field: 5}), ranks=4)


@pytest.mark.parametrize(
    ("ranks", "asked", "nodes", "each"), [(1, None, 1, 1), (2, None, 1, 2), (4, None, 2, 2), (2, 2, 2, 1)]
)
def test_ranks_fill_as_few_nodes_as_hold_them(ranks, asked, nodes, each):
    profile = SiteProfile(**CLUSTER, overrides=Overrides(nodes=2))
    allocation = allocate(profile, Resources(nodes=asked), ranks=ranks)
    assert (allocation.nodes, allocation.ranks_per_node) == (nodes, each)


@pytest.mark.parametrize("ranks", [3, 5, 6])
def test_ranks_without_a_place_are_refused(ranks):
    with pytest.raises(RecipeError, match="same number of ranks"):
        allocate(SiteProfile(**CLUSTER), Resources(), ranks=ranks)


def test_a_job_that_would_be_warned_as_it_starts_is_refused():
    profile = SiteProfile(**CLUSTER, warning_seconds=120, overrides=Overrides(walltime_minutes=30))
    assert allocate(profile, Resources(walltime_minutes=3), ranks=1).walltime_minutes == 3
    with pytest.raises(RecipeError, match=r"2 min of walltime.*120 s.*resources\.walltime_minutes"):
        allocate(profile, Resources(walltime_minutes=2), ranks=1)


def test_a_site_without_gpus_says_how_many_ranks_a_node_has():
    with pytest.raises(ValidationError, match="ranks_per_node"):
        SiteProfile(scheduler="slurm")
    profile = SiteProfile(scheduler="slurm", ranks_per_node=8, memory_gb=64)
    assert allocate(profile, Resources(), ranks=8).cpus_per_task == 8


@pytest.mark.parametrize("fields", [{"gpus_per_node": 2}, {"ranks_per_node": 2}, {"gpus_per_node": 2, "device": "cpu"}])
def test_a_site_says_how_much_memory_there_is(fields):
    with pytest.raises(ValidationError, match="memory_gb"):
        SiteProfile(scheduler="slurm", **fields)


def test_plans_are_made_for_the_sites_nodes():
    assert machine_of(read_site(None), Resources()) is None
    gpus = SiteProfile(**CLUSTER, overrides=Overrides(nodes=3))
    assert machine_of(gpus, Resources(nodes=3)) == Machine(6, 2, 80 * 10**9, accelerator=True)
    cores = SiteProfile(scheduler="slurm", nodes=2, ranks_per_node=8, memory_gb=64)
    assert machine_of(cores, Resources()) == Machine(16, 8, 64 * 10**9, accelerator=False)
    idle = SiteProfile(**CLUSTER, device="cpu", memory_gb=32)
    assert machine_of(idle, Resources()) == Machine(4, 2, 32 * 10**9, accelerator=False)
    with pytest.raises(RecipeError):
        machine_of(gpus, Resources(nodes=4))


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("field", NAMES)
def test_hostile_names_are_refused(field, value):
    for make in (Resources, lambda **fields: SiteProfile(**CLUSTER, **fields)):
        with pytest.raises(ValidationError):
            make(**{field: value})


@pytest.mark.parametrize("value", ["a\nb", "a\r#SBATCH --uid=root", "a\0b", "x" * 10_000])
@pytest.mark.parametrize("field", ["python", "setup", "container", "environment"])
def test_a_line_of_the_profile_is_one_line(field, value):
    whole = {"environment": {"A": value}, "python": value}.get(field, (value,))
    with pytest.raises(ValidationError):
        SiteProfile(**CLUSTER, **{field: whole})


@pytest.mark.parametrize(
    "name", ["TILED_API_KEY", "MY_TOKEN", "password", "PREFECT_API_URL", "A B", "A=B", "A\nB", "1A"]
)
def test_keys_and_what_is_no_name_have_no_place_in_the_environment(name):
    with pytest.raises(ValidationError):
        SiteProfile(**CLUSTER, environment={name: "x"})


@pytest.mark.parametrize(
    "directive", ["--export=ALL", "--job-name=x", "-p gpu", "--comment=a b", "--x=a\nb", "--x=$(y)", "x"]
)
def test_directives_are_options_that_the_script_does_not_set(directive):
    with pytest.raises(ValidationError):
        SiteProfile(**CLUSTER, directives=(directive,))


def test_ranks_of_a_node_are_no_more_than_its_gpus():
    """Two ranks do not share one; where the profile does not know of GPUs, such as with --gres, it says how many."""
    profile = SiteProfile(**CLUSTER, ranks_per_node=4)
    assert machine_of(profile, Resources()) == Machine(4, 2, 80 * 10**9, accelerator=True)
    with pytest.raises(RecipeError, match="2 nodes of at most 2"):
        allocate(profile, Resources(), ranks=8)
    elsewhere = SiteProfile(scheduler="slurm", device="xpu", ranks_per_node=12, gpu_memory_gb=64)
    assert machine_of(elsewhere, Resources()) == Machine(12, 12, 64 * 10**9, accelerator=True)


def test_a_plan_knows_memory_and_cores_beside_the_gpus():
    profile = SiteProfile(**CLUSTER, memory_gb=400, cpus_per_task=32)
    assert machine_of(profile, Resources()) == Machine(4, 2, 80 * 10**9, True, 400 * 10**9, 32)


def test_processors_of_a_site_with_gpus_are_planned_with_its_nodes_cores_and_memory():
    for device, fields in (("cpu", {}), (None, {"gpus_per_node": 0})):
        resources = Resources(**fields)
        profile = SiteProfile(
            **CLUSTER, device=device, memory_gb=400, cpus_per_task=32, overrides=Overrides(gpus_per_node=2)
        )
        assert machine_of(profile, resources) == Machine(16, 32, 400 * 10**9, accelerator=False)
    with pytest.raises(PlanError, match="give memory_gb in the site's profile"):
        machine_of(SiteProfile(**CLUSTER, overrides=Overrides(gpus_per_node=2)), Resources(gpus_per_node=0))


def test_a_job_on_processors_gets_no_gpus():
    profile = SiteProfile(**CLUSTER, memory_gb=400, cpus_per_task=32)
    for device, gpus, nodes in (("gpu", 2, 2), ("cpu", 0, 1)):
        allocation = allocate(profile, Resources(), ranks=4, device=device)
        assert (allocation.gpus_per_node, allocation.nodes, allocation.cpus_per_task) == (gpus, nodes, 32)


@pytest.mark.parametrize("threads", ["0", "none"])
def test_a_site_gives_a_rank_one_thread_at_least(tmp_path, threads):
    assert SiteProfile(environment={"OMP_NUM_THREADS": "2"}).environment == {"OMP_NUM_THREADS": "2"}
    path = tmp_path / "site.toml"
    path.write_text(f'[environment]\nOMP_NUM_THREADS = "{threads}"\n')
    with pytest.raises(SchedulerError, match="one thread or more"):
        read_site(path)


def test_every_resource_is_in_profile_limits_allocation_and_batch_script():
    resources = set(Resources.model_fields)
    assert set(Overrides.model_fields) == resources
    assert resources <= set(SiteProfile.model_fields)
    assert resources <= set(Allocation.model_fields)
    asked = Resources(**{field: "a" if field in NAMES else 1 for field in resources})
    assert len(dict(asked.sbatch_options())) == len(resources)
