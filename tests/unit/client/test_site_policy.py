"""The rules of a hospital: site.toml explains them, requests beyond them are refused, budgets outlive everything."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    COORDINATOR_KEY,
    initial_weights,
    make_experiment,
    make_guard,
    make_request,
    make_site_data,
    make_trainer,
    opened,
)

from medseg_client.approval import words
from medseg_client.machine_check import check_rules
from medseg_client.policy import Policy
from medseg_client.site_folder import Accounts, ApprovedExperiments, SiteFolder, SiteSettings
from medseg_client.site_state import SiteState
from medseg_client.trainer import SiteIdentity, Trainer
from medseg_core.config import Experiment, experiment_sha256, experiment_toml, parse_document
from medseg_core.errors import ExperimentFileError, MedsegError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import seal
from medseg_core.wire.header import Header
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

EXPERIMENT = make_experiment(federation={"rounds": 9})
DATA = make_site_data(train=2, validation=1, test=1)
SETTINGS = SiteSettings(name="north", data=Path('/images/ä"b'), egress_port=1, node_port=2)


def trainer_in(
    folder: Path, faults: list[Exception], experiment: Experiment = EXPERIMENT, **rules: Any
) -> Trainer:
    """A trainer as it starts, on what is in the folder."""
    guard = make_guard(folder / "ledger", **rules)
    return make_trainer(folder / "state", experiment, DATA, faults=faults, guard=guard)


def ask(trainer: Trainer, kind: str = "train", experiment: Experiment = EXPERIMENT, **fields: Any) -> Header:
    """Header of the answer to a new request."""
    return opened(trainer.handle(make_request(experiment, kind, **fields))).header


def score(trainer: Trainer, seed: int, **fields: Any) -> Header:
    """Header of the answer to a request to score a model."""
    weights = initial_weights(EXPERIMENT, seed)
    return ask(trainer, "evaluate", weights=weights, **{"split": "validation", **fields})


def read(text: str) -> SiteSettings:
    return parse_document(SiteSettings, tomllib.loads(text), source="site.toml")


def test_a_new_site_toml_holds_the_defaults() -> None:
    assert read(SETTINGS.to_toml()) == SETTINGS


def test_every_rule_survives_site_toml() -> None:
    rules = {"max_update_norm": 2.5, "approve_tasks": ["a", "b"], "statistics": [], "max_rounds": 3}
    changed = SETTINGS.model_copy(update={"policy": Policy.model_validate(rules)})
    assert read(changed.to_toml()) == changed
    apart = changed.model_copy(update={"accounts": Accounts(trainer="radiology")})
    assert read(apart.to_toml()) == apart


@pytest.mark.parametrize("key", [*SiteSettings.model_fields, *Policy.model_fields, *Accounts.model_fields])
def test_site_toml_explains_every_key(key: str) -> None:
    lines = SETTINGS.to_toml().splitlines()
    (at,) = [n for n, line in enumerate(lines) if re.match(rf"(# )?({key} =|\[{key}\]$)", line)]
    block = lines[: at + 1][::-1]
    above = [line for line in block[: block.index("")] if re.match(r"# [A-Z]", line)]
    assert above, f"{key} has no sentence above it"
    assert "@" not in lines[at]


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("min_patients = 3", "did you mean 'min_patients_score'"),
        ('networks = ["vgg"]', "networks"),
        ("max_update_norm = 0", "greater than 0"),
        ("max_rounds = 0", "greater than or equal to 1"),
        ("max_message_mb = inf", "finite"),
    ],
)
def test_a_rule_that_cannot_be_is_a_sentence(rule: str, hint: str) -> None:
    text = re.sub(rf"{rule.split(' ')[0]} = .*\n", "", SETTINGS.to_toml())
    with pytest.raises(ExperimentFileError, match=hint):
        read(text.replace("[policy]\n", f"[policy]\n{rule}\n"))


@pytest.mark.parametrize(
    ("rules", "code", "sentence"),
    [
        ({"networks": ["segresnet"]}, RefusalCode.ALGORITHM_NOT_ALLOWED, "the network is unet"),
        ({"algorithms": ["fedprox"]}, RefusalCode.ALGORITHM_NOT_ALLOWED, "the algorithm is fedavg"),
        ({"max_parameters": 100}, RefusalCode.MODEL_TOO_LARGE, "max_parameters is 100"),
        ({"min_patients_update": 3}, RefusalCode.TOO_FEW_PATIENTS, "of 2 patients"),
        ({"max_message_mb": 1e-4}, RefusalCode.MODEL_TOO_LARGE, "max_message_mb"),
    ],
)
def test_training_beyond_policy_is_refused_with_a_code_there_and_a_sentence_here(
    tmp_path: Path, rules: dict[str, Any], code: RefusalCode, sentence: str
) -> None:
    faults: list[Exception] = []
    answer = ask(trainer_in(tmp_path, faults, **rules))
    assert answer.code is code
    assert answer.ledger_sequence == 1
    assert sentence in str(faults[0])
    assert "change site.toml" in str(faults[0])


def test_control_variates_do_not_pass_by_a_bound_on_updates(tmp_path: Path) -> None:
    scaffold = make_experiment(federation={"algorithm": "scaffold"}, training={"optimiser": "sgd"})
    faults: list[Exception] = []
    rules = {"algorithms": ["scaffold"], "max_update_norm": 1.0}
    answer = ask(trainer_in(tmp_path, faults, scaffold, **rules), experiment=scaffold)
    assert answer.code is RefusalCode.ALGORITHM_NOT_ALLOWED
    assert "control variates tell what the scaled update does not. [policy] max_update_norm is 1.0" in str(
        faults[0]
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients: five train, one validates, two test."""
    settings = PhantomSettings(sites=1, cases=8, spatial_dims=2, voxel_mm=4.0)
    return write_phantoms(tmp_path_factory.mktemp("hospital") / "images", settings)


@pytest.mark.parametrize(
    ("rules", "state", "sentence"),
    [
        ({"min_patients_score": 1}, "ok", "of your patients 5 train, 1 validate, 2 test"),
        (
            {},
            "warning",
            "train, 1 validate, 2 test, and a score rests on at least 5 (min_patients_score)",
        ),
        ({"min_patients_score": 2}, "warning", "on at least 2 (min_patients_score)"),
        (
            {"min_patients_update": 6},
            "fault",
            "5 train, 1 validate, 2 test, and an update rests on at least 6",
        ),
        (
            {"algorithms": ["fedprox"]},
            "fault",
            "would refuse it: the algorithm is fedavg. [policy] algorithms is",
        ),
        ({"max_parameters": 100}, "fault", "max_parameters is 100"),
    ],
)
def test_the_check_tells_beforehand_what_the_rules_would_refuse(
    images: Path, tmp_path: Path, rules: dict[str, Any], state: str, sentence: str
) -> None:
    settings = SETTINGS.model_copy(update={"data": images, "policy": Policy.model_validate(rules)})
    (tmp_path / "site.toml").write_text(settings.to_toml())
    (finding,) = check_rules(SiteFolder(tmp_path), [EXPERIMENT])
    assert (finding.topic, finding.state) == ("rules for squares", state)
    assert sentence in finding.text
    assert bool(finding.remedy) == (state != "ok")
    assert str(images) not in finding.text + finding.remedy


@pytest.mark.parametrize("rules", [{"networks": ["segresnet"]}, {"min_patients_update": 3}])
def test_a_coordinator_learns_of_the_refusal_when_it_describes_the_site(
    tmp_path: Path, rules: dict[str, Any]
) -> None:
    assert ask(trainer_in(tmp_path, [], **rules), "describe").direction == "refusal"


def test_a_network_too_large_for_any_machine_is_refused_before_it_is_made(tmp_path: Path) -> None:
    huge = make_experiment(model={"channels": [4, 50_000_000]})
    trainer = trainer_in(tmp_path, [], huge)
    assert ask(trainer, "describe", huge).code is RefusalCode.MODEL_TOO_LARGE


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_of_too_few_patients_are_refused_before_the_model_is_run(tmp_path: Path, split: str) -> None:
    trainer = trainer_in(tmp_path, [], min_patients_score=2)
    assert score(trainer, 1, split=split).code is RefusalCode.TOO_FEW_PATIENTS
    assert ask(trainer).direction == "reply"


def test_a_site_without_validation_cases_answers_that_it_has_no_score(tmp_path: Path) -> None:
    guard = make_guard(tmp_path / "ledger", min_patients_score=5)
    data = make_site_data(train=2, validation=0)
    trainer = make_trainer(tmp_path / "state", EXPERIMENT, data, guard=guard)
    assert score(trainer, 1).scalars == {"dice": None}


def test_scores_that_policy_keeps_are_refused(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, [], statistics=["training", "validation"])
    assert score(trainer, 1, split="test").code is RefusalCode.NOT_RELEASED
    assert score(trainer, 1).direction == "reply"


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("train", "max_rounds"), ("evaluate", "max_evaluations"), ("describe", "max_describes")],
)
def test_a_budget_counts_over_runs_and_restarts_and_not_repeats(tmp_path: Path, kind: str, rule: str) -> None:
    rules, split = {rule: 2}, {"split": "validation"} if kind == "evaluate" else {}
    requests = [make_request(EXPERIMENT, kind, run=run, **split) for run in ("first", "second", "third")]
    faults: list[Exception] = []

    def codes() -> list[str | None]:
        return [
            opened(trainer_in(tmp_path, faults, **rules).handle(request)).header.code for request in requests
        ]

    assert codes() == [None, None, RefusalCode.BUDGET_SPENT]
    assert codes() == [None, None, RefusalCode.BUDGET_SPENT]
    assert "2 of task squares were answered" in str(faults[0])


def test_a_refused_request_costs_nothing(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, [], max_rounds=1)
    assert ask(trainer, weights=b"not a model").code is RefusalCode.MALFORMED
    assert ask(trainer, attempt=2).direction == "reply"
    assert ask(trainer, attempt=3).code is RefusalCode.BUDGET_SPENT


def test_a_larger_budget_in_site_toml_is_all_it_takes(tmp_path: Path) -> None:
    assert ask(trainer_in(tmp_path, [], max_rounds=1)).direction == "reply"
    assert ask(trainer_in(tmp_path, [], max_rounds=1), round=2).code is RefusalCode.BUDGET_SPENT
    assert ask(trainer_in(tmp_path, [], max_rounds=2), round=2, attempt=2).direction == "reply"


def test_the_budget_of_one_task_is_not_spent_by_another(tmp_path: Path) -> None:
    other = make_experiment(task={"name": "circles"})
    assert ask(trainer_in(tmp_path, [], max_rounds=1)).direction == "reply"
    assert ask(trainer_in(tmp_path, [], other, max_rounds=1), "train", other, run="b").direction == "reply"


def test_one_model_a_round_is_scored(tmp_path: Path) -> None:
    faults: list[Exception] = []
    trainer = trainer_in(tmp_path, faults)
    assert score(trainer, 1).direction == "reply"
    assert score(trainer, 2, attempt=2).code is RefusalCode.BUDGET_SPENT
    assert "one a round is answered" in str(faults[0])
    assert (
        score(trainer_in(tmp_path, []), 1, attempt=3).direction == "reply"
    )  # the same again, for the same charge
    assert score(trainer, 2, round=2).direction == "reply"


def test_a_round_that_was_trained_again_is_scored_again(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, [])
    assert [ask(trainer).code, score(trainer, 1).code] == [None, None]
    assert ask(trainer, attempt=2).code is None  # a coordinator that lost its checkpoint does the round again
    assert score(trainer, 2, attempt=2).code is None
    assert score(trainer, 3, attempt=3).code is RefusalCode.BUDGET_SPENT


def trained(trainer: Trainer, number: int, seed: int, **fields: Any) -> Header:
    """Header of the answer to a request to train for a round, and to score the model before that."""
    return ask(
        trainer,
        weights=initial_weights(EXPERIMENT, seed),
        **{"round": number, "split": "validation", **fields},
    )


def test_a_score_leaves_with_an_update_where_it_is_asked_for(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, [], min_patients_update=1, min_patients_score=1)
    alone, with_training = score(trainer, 0, round=1), trained(trainer, 2, 0)
    assert with_training.scalars["validation_dice"] == alone.scalars["dice"]
    assert with_training.counts == {"cases": 2, "steps": 1, "validation_cases": 1}


def test_a_score_before_training_changes_no_bit_of_the_update(tmp_path: Path) -> None:
    updates = [
        opened(
            trainer_in(tmp_path / str(split), [], min_patients_update=1, min_patients_score=1).handle(
                make_request(EXPERIMENT, weights=initial_weights(EXPERIMENT), round=2, split=split)
            )
        ).payload
        for split in (None, "validation")
    ]
    assert updates[0] == updates[1]


@pytest.mark.parametrize(
    ("rules", "hint"),
    [
        ({"statistics": ("training",)}, "statistics"),
        ({"min_patients_score": 2}, "min_patients_score"),
        ({"max_evaluations": 1}, "max_evaluations"),
    ],
)
def test_an_update_leaves_without_the_score_that_policy_keeps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rules: dict[str, Any], hint: str
) -> None:
    trainer = trainer_in(tmp_path, [], **{"min_patients_update": 1, "min_patients_score": 1, **rules})
    trained(trainer, 2, 0)
    answer = trained(trainer, 3, 1)
    assert (answer.direction, answer.code) == ("reply", None)
    assert answer.counts == {"cases": 2, "steps": 1}
    assert "validation_dice" not in answer.scalars
    assert hint in caplog.text


def test_figures_of_training_that_policy_keeps_do_not_keep_the_score(tmp_path: Path) -> None:
    rules = {"min_patients_update": 1, "min_patients_score": 1, "statistics": ("validation",)}
    assert list(trained(trainer_in(tmp_path, [], **rules), 2, 0).scalars) == ["validation_dice"]


def test_one_model_a_round_is_scored_whichever_way_it_is_asked_for(tmp_path: Path) -> None:
    faults: list[Exception] = []
    trainer = trainer_in(tmp_path, faults, min_patients_update=1, min_patients_score=1, max_evaluations=1)
    trained(trainer, 2, 0)
    assert score(trainer, 0, round=1, attempt=2).code is None  # the same model: charged once
    assert score(trainer, 1, round=1, attempt=3).code is RefusalCode.BUDGET_SPENT
    assert "validation_dice" not in trained(trainer, 2, 1, attempt=2).scalars


def test_a_policy_that_allows_all_changes_no_bit_of_an_update(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain", EXPERIMENT, DATA)
    request = make_request(EXPERIMENT)
    payloads = {opened(t.handle(request)).payload for t in (plain, trainer_in(tmp_path, []))}
    assert len(payloads) == 1


def test_a_sentence_of_policy_names_key_and_remedy(tmp_path: Path) -> None:
    faults: list[Exception] = []
    ask(trainer_in(tmp_path, faults, networks=["cnn3d"]))
    assert isinstance(faults[0], MedsegError)
    assert "[policy] networks is ['cnn3d']" in str(faults[0])


def describing(experiment: Experiment, payload: bytes | None = None, **fields: Any) -> bytes:
    """A request to describe a site that carries its experiment."""
    header = opened(make_request(experiment, "describe", **fields)).header
    payload = experiment_toml(experiment).encode() if payload is None else payload
    return seal(header, payload, COORDINATOR_KEY).to_bytes()


def newcomer(folder: Path, approve_tasks: list[str], **rules: Any) -> tuple[Trainer, ApprovedExperiments]:
    """A site that approved nothing yet."""
    approved = ApprovedExperiments(folder / "approved")
    trainer = Trainer(
        SiteIdentity("north", COORDINATOR_KEY.public_key()),
        SiteState(folder / "state"),
        make_guard(folder / "ledger", approve_tasks=approve_tasks, **rules),
        approved=approved,
        data_of=lambda _: DATA,
        device=torch.device("cpu"),
        on_fault=lambda error: None,
        approve=approved.add,
    )
    return trainer, approved


def test_an_experiment_of_a_task_named_for_it_is_approved_when_it_is_described(tmp_path: Path) -> None:
    trainer, approved = newcomer(tmp_path, ["squares"])
    assert ask(trainer).code is RefusalCode.UNKNOWN_EXPERIMENT
    assert opened(trainer.handle(describing(EXPERIMENT))).header.direction == "reply"
    assert dict(approved) == {experiment_sha256(EXPERIMENT): EXPERIMENT}
    assert ask(trainer, attempt=2).direction == "reply"


@pytest.mark.parametrize(
    ("tasks", "rules", "payload", "code"),
    [
        ([], {}, None, RefusalCode.UNKNOWN_EXPERIMENT),
        (["circles"], {}, None, RefusalCode.UNKNOWN_EXPERIMENT),
        (["squares"], {"networks": ["segresnet"]}, None, RefusalCode.ALGORITHM_NOT_ALLOWED),
        (["squares"], {"max_parameters": 9}, None, RefusalCode.MODEL_TOO_LARGE),
        (["squares"], {}, experiment_toml(make_experiment()).encode(), RefusalCode.MALFORMED),
        (["squares"], {}, b"", RefusalCode.MALFORMED),
        (["squares"], {}, b"\xff", RefusalCode.MALFORMED),
        (["squares"], {}, b"a = [", RefusalCode.MALFORMED),
        (["squares"], {}, b"a = " + b"[" * 20_000, RefusalCode.MALFORMED),
        (["squares"], {}, b"#" * 100_000, RefusalCode.TOO_LARGE),
    ],
)
def test_no_other_experiment_is_approved_unasked(
    tmp_path: Path, tasks: list[str], rules: dict[str, Any], payload: bytes | None, code: RefusalCode
) -> None:
    trainer, approved = newcomer(tmp_path, tasks, **rules)
    assert opened(trainer.handle(describing(EXPERIMENT, payload))).header.code is code
    assert dict(approved) == {}


def test_an_experiment_under_the_name_of_another_task_is_not_approved(tmp_path: Path) -> None:
    trainer, approved = newcomer(tmp_path, ["squares"])
    other = make_experiment(task={"name": "circles"})
    answer = opened(trainer.handle(describing(other, task="squares"))).header
    assert answer.code is RefusalCode.MALFORMED
    assert dict(approved) == {}


def test_an_experiment_with_misbehaviour_is_refused_whatever_the_rules_allow(tmp_path: Path) -> None:
    experiment = make_experiment(simulation={"faults": {"kind": "scale"}})
    faults: list[Exception] = []
    trainer = trainer_in(tmp_path, faults, experiment)
    for kind in ("describe", "train"):
        assert ask(trainer, kind, experiment).code is RefusalCode.ALGORITHM_NOT_ALLOWED
    assert "sites that misbehave: those are for medseg-simulate alone" in str(faults[0])
    with pytest.raises(MedsegError, match="Take the section out"):
        list(words(experiment, Policy()))
