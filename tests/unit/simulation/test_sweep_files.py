"""Sweep files: how a cell's experiment comes about, what is refused, and the files that come with the package."""

from typing import get_args

import pytest
from experiments import TINY

from medseg_core.config import AlgorithmName
from medseg_core.errors import ExperimentFileError
from medseg_core.learning.networks import build_network, count_parameters
from medseg_simulation.sweep.plan import read_sweep, sweep_names, sweep_toml

SWEEP = """
experiment = "tiny.toml"
seeds = [3, 4]
rounds = 5
baselines = ["pooled"]
[changes]
training.learning_rate = 0.1
[tuning]
pooled = [{ learning_rate = 0.2 }, { learning_rate = 0.3 }]
[[setting]]
name = "even"
changes.simulation.partition = "iid"
[[setting]]
name = "uneven"
changes.simulation = { partition = "quantity", sites = 2 }
[[algorithm]]
name = "fedavg"
candidates = [{}, { training.learning_rate = 0.01 }]
[[algorithm]]
name = "scaffold"
changes.training.optimiser = "sgd"
candidates = [{ federation.server_learning_rate = 0.5 }, { training.learning_rate = 0.05 }]
"""


@pytest.fixture
def read(tmp_path):
    """Reads a sweep file with this text, beside the experiment that it names."""
    (tmp_path / "tiny.toml").write_text(TINY)

    def read_text(text: str):
        (tmp_path / "sweep.toml").write_text(text)
        return read_sweep(str(tmp_path / "sweep.toml"))

    return read_text


def test_a_cell_is_the_experiment_with_the_changes_of_sweep_setting_algorithm_and_candidate(read):
    plan = read(SWEEP)
    _, uneven = plan.sweep.setting
    _, scaffold = plan.sweep.algorithm

    first, second = plan.tries_of(scaffold, uneven, seed=4)

    assert (first.simulation.partition, first.simulation.sites) == ("quantity", 2)
    assert (first.federation.algorithm, first.federation.seed, first.federation.rounds) == ("scaffold", 4, 5)
    assert (first.training.optimiser, first.training.learning_rate) == ("sgd", 0.1)
    assert first.federation.server_learning_rate == 0.5
    assert (second.training.learning_rate, second.federation.server_learning_rate) == (0.05, 1.0)
    assert first.simulation.baselines == ()  # they are cells of their own


def test_baselines_do_not_depend_on_the_algorithm_and_have_candidates_of_their_own(read):
    plan = read(SWEEP)

    tries = plan.baseline_tries(plan.sweep.setting[0], seed=3)

    assert [t.simulation.pooled.learning_rate for t in tries] == [0.2, 0.3]
    assert {t.training.optimiser for t in tries} == {"adamw"}
    assert {t.simulation.baselines for t in tries} == {("pooled",)}


@pytest.mark.parametrize(
    ("algorithms", "counted"),
    [
        (("fedavg", "cyclic"), ("fedavg", 5)),
        (("cyclic", "fedavg"), ("fedavg", 5)),
        (("cyclic", "scaffold"), ("cyclic", 10)),
        (("scaffold", "cyclic"), ("fedavg", 5)),  # scaffold itself would refuse the baselines' AdamW
    ],
)
def test_baselines_pass_over_the_cases_as_often_as_the_row_that_others_are_compared_with(
    read, algorithms, counted
):
    rows = [f'[[algorithm]]\nname = "{name}"\nchanges.training.optimiser = "sgd"\n' for name in algorithms]
    rounds = {"cyclic": "changes.federation.rounds = 10\n", "fedavg": "", "scaffold": ""}
    rows = [row + rounds[name] for row, name in zip(rows, algorithms, strict=True)]
    preset = 'preset = "retina"\nrounds = 5\nbaselines = ["pooled"]\n[[setting]]\nname = "natural"\n'
    plan = read(preset + "".join(rows))  # the preset is cyclic: a round is one site's

    (baseline,) = plan.baseline_tries(plan.sweep.setting[0], seed=0)

    assert (baseline.federation.algorithm, baseline.federation.rounds) == counted
    assert baseline.training.optimiser == "adamw"


def test_algorithms_may_have_candidates_where_there_are_no_baselines(read):
    plan = read(SWEEP.replace('baselines = ["pooled"]', ""))

    assert plan.sweep.tries == 2


def test_a_sweep_reads_back_as_it_was_written(read, tmp_path):
    plan = read(SWEEP)

    assert read(sweep_toml(plan.sweep)) == plan


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("{ learning_rate = 0.2 }, ", "", r"candidates differ in number \(fedavg 2, scaffold 2, pooled 1\)"),
        ('name = "scaffold"', 'name = "fedavg"', "give a label where a name stands twice"),
        ('name = "scaffold"', 'name = "scafold"', "scafold"),
        ('name = "uneven"', 'name = "Even"', "names must differ, got even, even"),
        ('experiment = "tiny.toml"', "", "give either preset or experiment"),
        ("seeds = [3, 4]", "seeds = [3, 3]", "seeds must differ"),
        ("rounds = 5", "round = 5", "did you mean 'rounds'"),
        (
            "{}, {",
            "{ training.learning_rate = 0.01 }, {",
            "fedavg in setting even: two candidates are the same",
        ),
        ("training.learning_rate = 0.1", "training.rate = 0.1", "has no key 'rate'"),
        (
            'changes.training.optimiser = "sgd"',
            "",
            'scaffold in setting even: .* it needs .* optimiser = "sgd"',
        ),
        (
            'changes.training.optimiser = "sgd"',
            'changes = { training.optimiser = "sgd", simulation.sites = 3 }',
            r"changes of algorithm scaffold hold simulation, .* use \[\[setting\]\] changes",
        ),
        (
            "{ federation.server_learning_rate = 0.5 }",
            "{ federation.seed = 5 }",
            "changes of algorithm scaffold hold federation.seed, .* use seeds of the whole sweep",
        ),
        ('name = "uneven"', 'name = "Sweep.html"', 'name = "Sweep.html" is a file of the sweep'),
    ],
)
def test_a_fault_is_told_before_anything_is_trained(read, old, new, fault):
    assert old in SWEEP

    with pytest.raises(ExperimentFileError, match=fault):
        read(SWEEP.replace(old, new))


@pytest.mark.parametrize(
    ("algorithm", "tries"),
    [
        ("ditto", "{ federation.ditto.weight = 0.1 }, { federation.ditto.weight = 1.0 }"),
        ("fedavg", "{ federation.fine_tuning.epochs = 1 }, { federation.fine_tuning.epochs = 2 }"),
    ],
)
def test_candidates_that_give_the_same_shared_model_are_refused_since_validation_cannot_tell_them(
    read, algorithm, tries
):
    head, _ = SWEEP.split('[[algorithm]]\nname = "fedavg"')
    text = f'{head}[[algorithm]]\nname = "{algorithm}"\ncandidates = [{tries}]\n'

    with pytest.raises(ExperimentFileError, match=r"differ in the sites' own models alone.*label"):
        read(text)

    changed = text.replace("candidates = [{", "candidates = [{ training.learning_rate = 0.3,")
    assert read(changed).sweep.tries == 2


def test_a_sweep_that_is_not_there_is_refused_with_those_that_are():
    known = (
        "codecs_retina, demo, finalists, finalists_retina, hostile, hostile_rules, longer, participation, "
        "screening"
    )
    with pytest.raises(ExperimentFileError, match=f"Give a sweep file, or one of {known}"):
        read_sweep("secreening")


@pytest.mark.parametrize("name", sweep_names())
def test_a_sweep_that_comes_with_the_package_has_fedavg_to_compare_with(name):
    assert read_sweep(name).sweep.reference == "fedavg"


def test_the_screening_compares_every_algorithm_with_a_small_network():
    plan = read_sweep("screening")
    (setting,) = plan.sweep.setting
    experiment = plan.tries_of(plan.sweep.algorithm[0], setting, seed=0)[0]

    needs_own_cases = {"fltrust"}
    assert {entry.name for entry in plan.sweep.algorithm} == set(get_args(AlgorithmName)) - needs_own_cases
    assert experiment.federation.rounds * experiment.federation.local_epochs == 8
    assert count_parameters(build_network(experiment.task, experiment.model, seed=0)) <= 400_000


def test_the_hostile_sweep_has_six_kinds_at_few_and_at_many_sites_beside_honest_ones():
    found = set()
    plan = read_sweep("hostile")
    for setting in plan.sweep.setting:
        experiment = plan.tries_of(plan.sweep.algorithm[0], setting, seed=0)[0]
        simulation = experiment.simulation
        faults = simulation.faults
        assert faults is not None
        assert experiment.federation.robust.hostile_sites == {5: 1, 8: 2}[simulation.sites]
        is_measured_alone = faults.kind == "backdoor" and faults.poisoned == 0
        found.add((simulation.sites, 0 if is_measured_alone else faults.sites, faults.kind))

    kinds = ("label_flip", "sign_flip", "scale", "noise", "nan", "backdoor")
    attacked = {(sites, hostile, kind) for sites, hostile in ((5, 1), (8, 2)) for kind in kinds}
    assert found == attacked | {(5, 0, "backdoor"), (8, 0, "backdoor")}
