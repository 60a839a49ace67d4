"""`medseg-site` as a hospital's people meet it: agreeing to an experiment, looking at what left."""

import io
import json
import sys
from pathlib import Path

import pytest
from builders import make_experiment, make_request, make_site_data, make_trainer, opened

from medseg_client.cli import main
from medseg_client.egress import EgressGuard
from medseg_client.joining import begin
from medseg_client.ledger import Ledger, read_ledger
from medseg_client.policy import Policy
from medseg_client.site_folder import SiteFolder, SiteSettings
from medseg_core.config import experiment_sha256, experiment_toml
from medseg_core.wire.signatures import load_key

EXPERIMENT = make_experiment(federation={"rounds": 7})


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    """A new hospital, and an experiment beside its folder."""
    folder = SiteFolder(tmp_path / "north")
    begin(folder, SiteSettings(name="north", data=Path("/images"), egress_port=1, node_port=2))
    (tmp_path / "squares.toml").write_text(experiment_toml(EXPERIMENT))
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A function that runs `medseg-site WORDS`: exit code, and what it printed."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["medseg-site", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        shown = capsys.readouterr()
        return int(exit_.value.code or 0), shown.out + shown.err

    return run


def answer_once(site: SiteFolder) -> str:
    """The site answers one training request; the head that the answer names."""
    key = load_key(site.key("signing"))
    ledger = Ledger(site.ledger, key, keep_payloads_days=0)
    guard = EgressGuard(key, policy=Policy(min_patients_update=1), ledger=ledger)
    trainer = make_trainer(site.root / "state", EXPERIMENT, make_site_data(), guard=guard, faults=[])
    head = opened(trainer.handle(make_request(EXPERIMENT))).header.ledger_head
    trainer.handle(make_request(EXPERIMENT, weights=b"x", round=9))
    assert head is not None
    return head


def test_agreeing_says_what_would_be_trained_and_what_would_leave(site: SiteFolder, call) -> None:
    code, shown = call("approve", site.root, site.root.parent / "squares.toml", "--yes")
    assert code == 0
    for words in (
        "find square in 2D images of grey",
        "Network unet: ",
        " MB",
        "fedavg, at most 7 rounds; ",
    ):
        assert words in shown
    for words in ("at most 7 times: mean Dice", "loss, seconds and norm", "fewer than 5 patients"):
        assert words in shown
    assert list(site.approved) == [experiment_sha256(EXPERIMENT)]


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_nothing_is_agreed_to_by_who_does_not_say_yes(
    site: SiteFolder, call, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    code, shown = call("approve", site.root, site.root.parent / "squares.toml")
    assert code == 130
    assert "Train this here?" in shown
    assert not list(site.approved)


def test_what_policy_refuses_cannot_be_agreed_to(site: SiteFolder, call) -> None:
    path = site.root / "site.toml"
    path.write_text(path.read_text().replace("max_parameters = 50000000", "max_parameters = 10"))
    code, shown = call("approve", site.root, site.root.parent / "squares.toml", "--yes")
    assert code == 1
    assert "[policy] max_parameters is 10" in shown
    assert not list(site.approved)


def test_what_policy_keeps_back_is_said(site: SiteFolder, call) -> None:
    path = site.root / "site.toml"
    text = path.read_text().replace(
        'statistics = ["training", "validation", "test", "site"]', 'statistics = ["test"]'
    )
    path.write_text(text.replace("# max_update_norm =", "max_update_norm = 2.5"))
    _, shown = call("approve", site.root, site.root.parent / "squares.toml", "--yes")
    leaves, kept = shown.split("Kept back")
    assert "mean Dice" not in leaves
    assert "loss, seconds" not in leaves
    assert "scaled down to norm 2.5" in leaves
    assert "mean Dice" in kept


def test_the_ledger_is_shown_to_people_and_to_programs(site: SiteFolder, call) -> None:
    answer_once(site)
    code, shown = call("ledger", site.root)
    assert code == 0
    assert "norm" in shown
    assert "train refused: budget_spent" in shown
    code, printed = call("ledger", site.root, "--json")
    assert [json.loads(line)["sequence"] for line in printed.splitlines()] == [1, 2]


def test_a_sound_ledger_is_verified_against_a_head(site: SiteFolder, call) -> None:
    head = answer_once(site)
    assert call("ledger", "verify", site.root)[0] == 0
    assert call("ledger", "verify", site.root, "--head", head)[0] == 0
    code, printed = call("ledger", "verify", site.root, "--json")
    assert code == 0
    assert json.loads(printed)["head"] == read_ledger(site.ledger, site.public_key).head


def test_a_ledger_without_the_line_of_a_head_is_refused(site: SiteFolder, call) -> None:
    answer_once(site)
    code, shown = call("ledger", "verify", site.root, "--head", "0" * 64)
    assert code == 1
    assert "lines were cut off" in shown
    path = site.ledger / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b"train", b"TRAIN", 1))
    code, shown = call("ledger", "verify", site.root)
    assert code == 1
    assert "line 1: is not as this site wrote it" in shown
