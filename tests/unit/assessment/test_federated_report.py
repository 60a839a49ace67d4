"""The report of a run across hospitals: figures that they released, who was missing and why, and no case."""

import json
import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from fake_run import write_federated_run
from html_page import Page

from medseg_core.assessment.absences import reason, remedy
from medseg_core.assessment.report import write_report
from medseg_core.assessment.summary import SCHEMA_FILE, read_summary
from medseg_core.federation.update import Reason
from medseg_core.wire.codes import RefusalCode

FROM_TRANSPORT = ("not_connected", "not_enrolled", "site_process_failed", "bad_score")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("federated")
    write_federated_run(made)
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder))


def plain(text: str) -> str:
    return re.sub("[\u2068\u2069]", "", text)


def test_the_summary_fits_the_schema_of_a_simulation(folder: Path) -> None:
    jsonschema.validate(
        json.loads((folder / "summary.json").read_text()), json.loads(SCHEMA_FILE.read_text())
    )
    assert not read_summary(folder / "summary.json").is_simulated


def test_the_headline_says_what_the_shared_model_reaches_and_no_more(page: Page, folder: Path) -> None:
    summary = read_summary(folder / "summary.json")

    worst = summary.shared.worst_site
    assert (
        f"One shared model from 3 hospitals: it reaches a Dice of {summary.shared.mean.dice:.3f}" in page.text
    )
    assert f"from {worst.dice:.3f} at {worst.site}" in plain(page.text)
    assert "whether federation pays is not answered here" in page.text
    assert "--" not in page.text.replace(
        "--opt", ""
    )  # no option of a command that a coordinator does not have


def test_sections_without_their_data_are_left_out(page: Page) -> None:
    for heading in (
        "Worst cases",
        "What the shared model draws",
        "Every model at every site",
        "not trained",
        "Partition",
    ):
        assert heading not in page.text
    for heading in (
        "The shared model at each site",
        "All scores",
        "Learning curves",
        "Who took part",
        "What it took",
    ):
        assert heading in page.text
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert all(link[1:] in ids for link in page.attributes("href"))


def test_intervals_are_those_that_the_sites_released(page: Page, folder: Path) -> None:
    for own in read_summary(folder / "summary.json").shared.sites.values():
        assert f"{own.dice_low:.3f} to {own.dice_high:.3f}" in page.text
    assert "no interval over all of them" in page.text


def test_each_round_names_its_contributors_and_each_absence_its_reason(page: Page, folder: Path) -> None:
    first = read_summary(folder / "summary.json").rounds_by_fold[0][0]

    told = " ".join(page.text.split())
    for site, own in first.contributed.items():
        assert f"{site} {own.cases} {own.seconds:.1f} s 4.8 MB 4.8 MB" in told
    assert "Cork absent: the update is larger than max_update_norm" in told
    assert (
        "Cork : the site was not connected (1 round: 6). Ask whether medseg-site up runs there." in page.text
    )
    assert "Cork : the update is larger than max_update_norm (1 round: 7)" in page.text
    assert "Without test scores Cork : the site has too few patients for its policy" in told
    assert "No test scores from Cork." in plain(page.text)


def test_what_sites_say_of_themselves_stands_beside_those_that_say_nothing(page: Page) -> None:
    told = " ".join(page.text.split())
    assert "Aarhus cuda 80 GiB 16 0.1.0 2.13.0 512 × 512 × 40 0.66 × 0.66 × 3.0 1900 5, 6" in told
    assert "Cork tells nothing" in told


@pytest.mark.parametrize("code", [*RefusalCode, *get_args(Reason), *FROM_TRANSPORT])
def test_every_reason_of_an_absence_is_told_in_words_with_a_remedy(code: str) -> None:
    assert " " in reason(str(code))
    assert "_" not in reason(str(code)).replace("max_update_norm", "")
    assert remedy(str(code)).endswith(".")


def test_a_reason_that_is_no_code_stays_as_it_is() -> None:
    assert (reason("Deadline passed"), remedy("Deadline passed")) == ("Deadline passed", "")
