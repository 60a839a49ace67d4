"""The report of a site: what it took part in, for its own people; complete, self-contained, escaped."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from builders import make_case, make_experiment, make_site_data
from enrolment import make_site
from html_page import Page
from joined_site import make_joined_site, run_with, trainer_of

from medseg_client.cli import main
from medseg_client.history import history_of
from medseg_client.ledger import Ledger, read_ledger
from medseg_client.models import models_of
from medseg_client.site_data import SiteData
from medseg_client.site_folder import SiteFolder
from medseg_client.site_report import write_site_report
from medseg_client.turned_away import LINES_AN_HOUR
from medseg_core.errors import MedsegError
from medseg_core.federation_errors import LedgerError, NoSiteFolderError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.signatures import load_key
from medseg_server.conduct import conduct

HOSTILE = '"><img src=x onerror=alert(1)>'
EXPERIMENT = make_experiment(federation={"rounds": 4})


def took_part(folder: Path, data: SiteData | None = None, **rules: object) -> SiteFolder:
    """A site after a run that went well, and one that its budget may have ended."""
    server, site = make_joined_site(folder, **rules)
    site.approved.add(EXPERIMENT)
    trainer = trainer_of(site, data)
    for name in ("first", "second"):
        try:
            conduct(run_with(server, trainer, EXPERIMENT, name, "north"))
        except MedsegError:
            assert name == "second"
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteFolder:
    site = took_part(tmp_path_factory.mktemp("federation"), max_rounds=6, max_update_norm=0.5)
    models_of(site).approve("first")
    ledger = Ledger(site.ledger, load_key(site.key("signing")), keep_payloads_days=0)
    for number in range(LINES_AN_HOUR + 5):
        ledger.turn_away(str(number).encode(), RefusalCode.BAD_SIGNATURE)
    ledger.close()
    return site


@pytest.fixture(scope="module")
def page(site: SiteFolder) -> Page:
    write_site_report(site, site.root / "report.html")
    return Page(site.root / "report.html")


def told(page: Page) -> str:
    return " ".join(page.text.split())


def test_the_page_needs_nothing_else_and_runs_no_script(page: Page) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "form", "object")]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = page.attributes("href")
    assert all(link[1:] in ids for link in links if link.startswith("#"))
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert "default-src 'none'" in page.html


def test_it_says_which_runs_and_how_far(page: Page) -> None:
    assert "2 runs 6 rounds answered here" in told(page)
    assert "federation trial at fed.example.org:8443" in told(page)
    assert re.search(r"first squares 4 of 4 ", told(page))
    assert re.search(r"second squares 2 of 4 ", told(page))


def test_figures_are_those_of_the_ledger(page: Page, site: SiteFolder) -> None:
    entries = [line.entry for line in read_ledger(site.ledger, site.public_key).lines]
    run = history_of(entries).runs["first"]
    assert (run.rounds, sorted(run.validation)) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert run.tested is not None
    released = run.tested.scalars
    assert f"{released['dice']:.3f} {released['dice_low']:.3f} to {released['dice_high']:.3f}" in told(page)
    for training in run.trainings:
        assert training.norm is not None
        assert f"{training.norm:.3f} {training.norm_before_clip:.3f}" in told(page)


def test_refusals_have_their_code_and_a_sentence(page: Page) -> None:
    assert "1 request refused" in told(page)
    assert "budget_spent : the site's budget of requests is spent. Ask it to raise the budget." in told(page)


def test_budgets_stand_beside_what_they_allow(page: Page) -> None:
    assert re.search(
        r"squares describe 2 200 max_describes train 6 6 max_rounds evaluate \d+ 2000", told(page)
    )


def test_the_state_of_each_model_is_told(page: Page) -> None:
    assert "in use" in told(page)
    assert "none came" in told(page)


def test_own_cases_and_pictures_are_shown(page: Page, site: SiteFolder) -> None:
    names = {case.case.case_id for case in make_site_data("north", test=4).test}
    assert all(f"{name} " in told(page) for name in names)
    pictures = [a for tag, a in page.tags if tag == "image"]
    assert len(pictures) == 3
    assert page.html.count("<svg") > 3


def test_the_curve_is_drawn_and_described(page: Page) -> None:
    assert any(
        "Validation Dice of the shared model at this site" in label for label in page.attributes("aria-label")
    )
    assert "Tested: round" in page.html


def test_attempts_and_the_head_of_the_ledger_are_told(page: Page, site: SiteFolder) -> None:
    assert read_ledger(site.ledger, site.public_key).head in page.text
    assert f"{LINES_AN_HOUR}: the signature does not belong to the known key ( bad_signature )" in told(page)
    assert "5 more, counted in one line" in told(page)


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    data = make_site_data("north")
    site = took_part(tmp_path, replace(data, test=(make_case(HOSTILE), *data.test)))
    write_site_report(site, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "<img" not in page.html
    assert HOSTILE in page.text


def test_a_policy_that_keeps_figures_leaves_their_places_empty(tmp_path: Path) -> None:
    server, site = make_joined_site(tmp_path, statistics=["validation"])
    site.approved.add(EXPERIMENT)
    with pytest.raises(MedsegError):
        conduct(run_with(server, trainer_of(site), EXPERIMENT, "only", "north"))
    write_site_report(site, tmp_path / "page.html")
    text = told(Page(tmp_path / "page.html"))
    assert "not_released" in text
    assert "Test figures" not in text
    assert "nan" not in text.lower().split()


def test_damaged_scores_and_pictures_are_left_out(tmp_path: Path) -> None:
    site = took_part(tmp_path)
    for path in (site.root / "state").rglob("evaluate_test_*/*"):
        if path.suffix in (".json", ".npz"):
            path.write_bytes(b"torn")
    write_site_report(site, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "Worst test cases" not in page.text
    assert "Test figures that were released" in page.text


def test_a_site_that_nobody_asked_anything_has_a_page(tmp_path: Path) -> None:
    site, _ = make_site(tmp_path / "north")
    write_site_report(site, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "Nothing was asked of this site yet" in page.text
    assert "in no federation" in page.text


def test_a_ledger_that_was_changed_gives_no_page(tmp_path: Path) -> None:
    site = took_part(tmp_path)
    path = site.ledger / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2', 1))
    with pytest.raises(LedgerError):
        write_site_report(site, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("named", [True, False])
def test_the_command_writes_it_where_it_is_told(
    site: SiteFolder,
    tmp_path: Path,
    named: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "a" / "own.html" if named else site.root / "report.html"
    path.unlink(missing_ok=True)
    words = ["--out", str(path)] if named else []
    monkeypatch.setattr(sys, "argv", ["medseg-site", "report", str(site.root), *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert path.is_file()
    assert "keep it as you keep those" in capsys.readouterr().out


def test_a_folder_that_is_no_site_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoSiteFolderError):
        write_site_report(SiteFolder(tmp_path), tmp_path / "page.html")


def test_a_model_of_the_sites_own_has_a_row_of_the_released_figures(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 1, "algorithm": "ditto"})
    server, site = make_joined_site(tmp_path, algorithms=("ditto",))
    site.approved.add(experiment)
    conduct(run_with(server, trainer_of(site), experiment, "first", "north"))
    write_site_report(site, tmp_path / "report.html")
    entries = [line.entry for line in read_ledger(site.ledger, site.public_key).lines]
    tested = history_of(entries).runs["first"].tested
    assert tested is not None
    assert f"This site's own model {tested.scalars['personal:dice']:.3f} " in told(
        Page(tmp_path / "report.html")
    )
