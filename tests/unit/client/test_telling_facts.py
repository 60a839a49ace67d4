"""What a site tells of itself beside its counts: rounded, of enough patients, declared, and withheld where wanted."""

from pathlib import Path

import pytest
import torch
from builders import (
    ledger_of,
    make_case,
    make_experiment,
    make_guard,
    make_request,
    make_site_data,
    make_trainer,
    opened,
)

import medseg_core
from medseg_client.egress import Question
from medseg_client.policy import Policy
from medseg_client.site_data import SiteData
from medseg_client.site_facts import tell_facts
from medseg_core.errors import WireError
from medseg_core.files import sha256_of
from medseg_core.wire.header import Header
from medseg_core.wire.site_facts import read_facts, version_parts

EXPERIMENT = make_experiment(federation={"rounds": 9})
DATA = make_site_data(train=3, validation=1, test=2)


def described(folder: Path, data: SiteData = DATA, attempt: int = 1, **rules: object) -> Header:
    trainer = make_trainer(
        folder / "state", EXPERIMENT, data, faults=[], guard=make_guard(folder / "ledger", **rules)
    )
    return opened(trainer.handle(make_request(EXPERIMENT, "describe", attempt=attempt))).header


def test_a_description_tells_machine_software_cohort_and_limits(tmp_path: Path) -> None:
    header = described(tmp_path, max_update_norm=2.5, max_rounds=70, max_parameters=12_345_678)
    facts = read_facts(header.scalars)
    assert facts is not None
    assert facts.medseg == version_parts(medseg_core.__version__)
    assert facts.torch == version_parts(torch.__version__)
    assert (facts.device, facts.spacing_mm, facts.size_voxels) == ("cpu", (1.0, 1.0), (20, 18))
    assert facts.memory_gib >= 1
    assert facts.cpu_threads >= 1
    assert (facts.max_update_norm, facts.rounds_left, facts.max_parameters) == (2.5, 70, 12_345_678)
    assert facts.released == ("training", "validation", "test")
    assert set(header.counts) == {
        f"{p}_{w}" for p in ("train", "validation", "test") for w in ("cases", "patients")
    }


def test_what_is_left_of_a_budget_shrinks_with_what_is_answered(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path / "s", EXPERIMENT, DATA, faults=[], guard=make_guard(tmp_path / "l", max_rounds=5)
    )
    for number in (1, 2):
        trainer.handle(make_request(EXPERIMENT, round=number))
    told = opened(trainer.handle(make_request(EXPERIMENT, "describe"))).header.scalars
    assert (told["rounds_left"], told["evaluations_left"]) == (3.0, 2000.0)


def test_medians_are_rounded_and_of_enough_patients_only() -> None:
    cases = [make_case(f"case-{n}", shape) for n, shape in enumerate([(20, 18), (30, 10), (24, 90)])]
    left = {"rounds_left": 1, "evaluations_left": 1}
    told = tell_facts(torch.device("cpu"), cases, Policy(min_patients_score=3), **left)
    assert (told.size_voxels, told.spacing_mm) == ((24, 18), (1.0, 1.0))
    kept = tell_facts(torch.device("cpu"), cases, Policy(min_patients_score=4), **left)
    assert (kept.size_voxels, kept.spacing_mm) == ((), ())


def test_a_policy_without_site_keeps_all_of_it(tmp_path: Path) -> None:
    header = described(tmp_path, statistics=["training", "validation", "test"])
    assert header.scalars == {}
    assert header.counts["train_cases"] == 3
    (entry,) = ledger_of(tmp_path / "ledger")
    assert entry.header is not None
    assert entry.header.scalars == {}


def test_what_is_told_stands_in_the_ledger(tmp_path: Path) -> None:
    header = described(tmp_path)
    (entry,) = ledger_of(tmp_path / "ledger")
    assert entry.header is not None
    assert entry.header.scalars == header.scalars != {}


def test_a_fact_that_was_not_declared_does_not_leave(tmp_path: Path) -> None:
    data = make_request(EXPERIMENT, "describe")
    question = Question(opened(data).header, bytes(opened(data).payload), sha256_of(data))
    with pytest.raises(WireError, match="undeclared figures"):
        make_guard(tmp_path).release_figures(question, counts={}, n_patients=9, scalars={"hostname": 1.0})


def test_a_simulated_site_tells_nothing_of_its_machine(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, EXPERIMENT, DATA)
    assert opened(trainer.handle(make_request(EXPERIMENT, "describe"))).header.scalars == {}
