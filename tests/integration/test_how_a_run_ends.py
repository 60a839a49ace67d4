"""What a run across hospitals leaves in the coordinator's folder, also when its last process died half-way."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builders import (
    COORDINATOR_KEY,
    ScriptedTransport,
    constant_update,
    make_experiment,
    make_federation,
    make_run,
    make_site_data,
    newest_weights,
    scripted_site,
    site_key,
)

from medseg_client.models import Models
from medseg_core.assessment.summary import SCHEMA_FILE, Summary, read_summary
from medseg_core.errors import ModelFolderError
from medseg_core.learning.model_package import read_model
from medseg_core.learning.signed_model import check_model
from medseg_core.learning.weights import get_weights
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, seal
from medseg_core.wire.header import refusal_to
from medseg_server import conduct as conducting
from medseg_server.conduct import conduct
from medseg_server.errors import SiteAnswersError
from medseg_server.rounds import Run

EXPERIMENT = make_experiment()
SITES = ("north", "south")


def federation(folder: Path) -> Run:
    return make_federation(folder, EXPERIMENT, {site: make_site_data(site, test=3) for site in SITES})


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = federation(tmp_path_factory.mktemp("ended"))
    conduct(run)
    return run


def summary_of(run: Run) -> Summary:
    return read_summary(run.store.folder / "summary.json")


def test_the_summary_is_of_the_same_kind_as_a_simulations(ended: Run) -> None:
    document = json.loads((ended.store.folder / "summary.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text()))
    summary = summary_of(ended)
    assert not summary.is_simulated
    assert summary.sites["north"].patients.test == 3
    assert [r.contributed["south"].cases for r in summary.rounds_by_fold[0]] == [3, 3]


def test_means_are_over_the_cases_that_the_sites_kept(ended: Run) -> None:
    stored = (ended.store.folder.parent / "sites").glob("*/run/evaluate_test_*/cases.json")
    cases = [case for path in stored for case in json.loads(path.read_text())]
    assert len(cases) == 6
    mean = summary_of(ended).shared.mean
    assert mean.dice == pytest.approx(sum(case["mean"]["dice"] for case in cases) / 6)
    assert mean.hd95_mm == pytest.approx(sum(case["mean"]["hd95_mm"] for case in cases) / 6)


def test_the_chosen_model_is_there_signed_by_the_coordinator(ended: Run) -> None:
    model = ended.store.folder / "model"
    assert check_model(model, COORDINATOR_KEY.public_key()).run == "run"
    with pytest.raises(ModelFolderError, match="not signed by the coordinator"):
        check_model(model, site_key("north").public_key())
    loaded, chosen = get_weights(read_model(model).network), newest_weights(ended)
    assert summary_of(ended).best_by_fold[0].round == 2
    assert all((loaded[name] == chosen[name]).all() for name in chosen)
    card = (model / "README.md").read_text()
    assert "Partition" not in card
    assert "None" not in card


def test_learning_curves_are_there_for_tensorboard(ended: Run) -> None:
    assert list((ended.store.folder / "tensorboard/global").glob("events.out.tfevents.*"))


def test_nothing_of_a_case_reaches_the_coordinator(ended: Run) -> None:
    names = {c.case.case_id.encode() for site in SITES for c in make_site_data(site, test=3).test}
    names |= {b"patient-of", b"/images"}
    files = [path for path in ended.store.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path.name for path in files if any(name in path.read_bytes() for name in names)] == []


def test_a_process_that_dies_after_the_test_is_made_good_without_asking_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = federation(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(conducting, "write_outcome", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            conduct(run)
    nobody = ScriptedTransport({}, connected=())

    conduct(replace(run, transport=nobody))

    assert nobody.sent == []
    first = {p: p.read_bytes() for p in run.store.folder.rglob("*") if p.suffix in (".json", ".html", ".md")}
    assert run.store.folder / "report.html" in first
    conduct(replace(run, transport=nobody))
    assert {path: path.read_bytes() for path in first} == first


def test_a_half_written_model_is_written_again_and_a_signed_one_is_left(tmp_path: Path) -> None:
    run = federation(tmp_path)
    conduct(run)
    model = run.store.folder / "model"
    signed = (model / "signature.json").read_bytes()
    (model / "signature.json").unlink()
    (model / "model.safetensors").write_bytes(b"half")

    conduct(run)

    assert (model / "signature.json").read_bytes() == signed
    check_model(model, COORDINATOR_KEY.public_key())
    changed = (model / "model.safetensors").stat().st_mtime_ns
    conduct(run)
    assert (model / "model.safetensors").stat().st_mtime_ns == changed


def test_the_model_arrives_at_every_site_unapproved(ended: Run) -> None:
    for site in SITES:
        models = Models(ended.store.folder.parent / "models" / site, COORDINATOR_KEY.public_key())
        assert [(model.run, model.state) for model in models.listed()] == [("run", "unapproved")]
        arrived = models.folder / "run/model.safetensors"
        assert arrived.read_bytes() == (ended.store.folder / "model/model.safetensors").read_bytes()
    (published,) = ended.store.events("published")
    assert (published["sites"], published["absent"]) == (["north", "south"], {})


def test_a_site_that_was_away_gets_the_model_the_next_time(tmp_path: Path) -> None:
    run = federation(tmp_path)
    south = run.transport.answers["south"]  # type: ignore[attr-defined]

    def away_in_the_end(request: Envelope) -> Any:
        return None if request.header.kind == "publish" else south(request)

    answers = {**run.transport.answers, "south": away_in_the_end}  # type: ignore[attr-defined]
    conduct(replace(run, transport=ScriptedTransport(answers)))
    (first,) = run.store.events("published")
    assert (first["sites"], first["absent"]) == (["north"], {"south": "deadline"})

    run.transport.sent.clear()  # type: ignore[attr-defined]
    conduct(run)

    assert [(e.header.kind, e.header.site) for e in run.transport.sent] == [("publish", "south")]  # type: ignore[attr-defined]
    assert run.store.events("published")[1]["sites"] == ["south"]
    assert (tmp_path / "models/south/run/signature.json").is_file()


def refusing_the_test(site: str) -> Callable[[Envelope], Any]:
    """A site that takes part, and does not publish test scores."""
    answer = scripted_site(site, constant_update(EXPERIMENT, 0.1))

    def handle(request: Envelope) -> Any:
        if request.header.split == "test":
            return seal(
                refusal_to(request.header, RefusalCode.TOO_FEW_PATIENTS), b"", site_key(site)
            ).to_bytes()
        return answer(request)

    return handle


def run_of_three(folder: Path, **federation_settings: Any) -> Run:
    """North tests for real; west refuses to; east makes its scores up."""
    experiment = make_experiment(federation={"rounds": 2, **federation_settings})
    real = make_federation(folder, experiment, {"north": make_site_data("north")})
    east = scripted_site("east", constant_update(experiment, 0.1), dice=lambda request: 0.99)
    answers = {**real.transport.answers, "west": refusing_the_test("west"), "east": east}  # type: ignore[attr-defined]
    return make_run(folder / "run", experiment, ScriptedTransport(answers))


def test_a_site_without_usable_test_scores_is_named_and_stops_nothing(tmp_path: Path) -> None:
    run = run_of_three(tmp_path)

    conduct(run)

    summary = summary_of(run)
    assert summary.untested == {"east": "bad_count", "west": "too_few_patients"}
    assert list(summary.shared.sites) == ["north"]
    assert set(summary.sites) == {"east", "north", "west"}
    assert "Without test scores" in (run.store.folder / "report.html").read_text()


def test_a_required_site_without_test_scores_ends_the_run_by_name(tmp_path: Path) -> None:
    run = run_of_three(tmp_path, required_sites=["west"])

    with pytest.raises(SiteAnswersError, match=r"west \(too_few_patients\)"):
        conduct(run)

    assert not (run.store.folder / "summary.json").exists()
