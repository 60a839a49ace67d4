"""[pacs] of site.toml and queries: what is asked is what is written, and what cannot be is a sentence."""

import tomllib
from pathlib import Path

import pytest
from enrolment import make_site

from medseg_client.pacs import FoundSeries, SeriesQuery, pacs_of
from medseg_client.pacs_settings import Dimse, PacsSettings
from medseg_client.site_folder import SiteSettings
from medseg_core.config import parse_document
from medseg_core.errors import ExperimentFileError
from medseg_core.federation_errors import LoginFileError
from medseg_core.pacs_errors import NoPacsError, PacsQueryError

SETTINGS = SiteSettings(name="north", data=Path("/images"), egress_port=1, node_port=2)
DIMSE = PacsSettings(dimse=Dimse(host="archive", port=104, ae_title="ARCHIVE"))


def read(text: str) -> SiteSettings:
    return parse_document(SiteSettings, tomllib.loads(text), source="site.toml")


def test_the_pacs_survives_site_toml() -> None:
    changed = SETTINGS.model_copy(update={"pacs": DIMSE})
    assert read(changed.to_toml()) == changed


def test_the_example_in_site_toml_serves_without_its_signs() -> None:
    head, _, tail = SETTINGS.to_toml().partition("# [pacs]\n")
    example, rest = tail.split("\n\n", 1)
    assert read(f"{head}[pacs]\n{example.replace('# ', '')}\n\n{rest}").pacs is not None


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("[pacs]", "give either"),
        ('[pacs.dicomweb]\nurl="https://a/b"\n[pacs.dimse]\nhost="a"\nport=1\nae_title="A"', "give either"),
        ('[pacs.dicomweb]\nurl="ftp://a"', "expected .https"),
        ('[pacs.dicomweb]\nurl="https://a/b?c=d"', "expected .https"),
        ('[pacs.dicomweb]\nurl="https://a/b"\ncertificate="a.pem"', "go together"),
        ('[pacs.dimse]\nhost="a b"\nport=1\nae_title="A"', "expected a name or an IP address"),
        ('[pacs.dimse]\nhost="a"\nport=1\nae_title="ARCHIVE-IN-BASEMENT"', "ae_title"),
        ('[pacs.dimse]\nhost="a"\nport=1\naetitle="A"', "did you mean 'ae_title'"),
    ],
)
def test_a_pacs_that_cannot_be_is_a_sentence(section: str, sentence: str) -> None:
    with pytest.raises(ExperimentFileError, match=sentence):
        read(f"{SETTINGS.to_toml()}\n{section}\n")


def test_a_password_in_site_toml_is_refused_and_not_shown(tmp_path: Path) -> None:
    site, _ = make_site(tmp_path / "site")
    text = (site.root / "site.toml").read_text()
    (site.root / "site.toml").write_text(f'{text}\n[pacs.dicomweb]\nurl = "https://me:secret@pacs/web"\n')
    with pytest.raises(LoginFileError, match=r"pacs.login: USER:PASSWORD belongs here") as caught:
        site.settings  # noqa: B018
    assert "secret" not in str(caught.value)


def test_a_site_without_a_pacs_says_what_to_do(tmp_path: Path) -> None:
    site, _ = make_site(tmp_path / "site")
    with pytest.raises(NoPacsError, match="Take the # from the lines"):
        pacs_of(site)


def test_a_query_is_what_is_written() -> None:
    query = SeriesQuery.parse("pacs:date=20240101-20241231, modality=MR,description=T1 *")
    assert query == SeriesQuery(date="20240101-20241231", modality="MR", description="T1 *")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pacs:", "has ''"),
        ("pacs:patent=1", r"has 'patent=1'.*keys of patient, study"),
        ("pacs:patient=1,patient=2", "has 'patient=2'"),
        ("pacs:patient=", "no usable value of patient"),
        (r"pacs:patient=1\2", "no usable value of patient"),
        ("pacs:date=2024", "has a date that is none"),
        ("pacs:modality=MR", "would ask for every study"),
    ],
)
def test_a_query_that_cannot_be_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(PacsQueryError, match=sentence):
        SeriesQuery.parse(text)


def test_series_are_taken_by_modality_and_description_in_any_case() -> None:
    series = FoundSeries("1.1", "1.2", "MR", "Ax T1 fs", "7")
    assert SeriesQuery(patient="7", modality="mr", description="*t1*").takes(series)
    assert SeriesQuery(patient="7", series="1.2").takes(series)
    assert not SeriesQuery(patient="7", series="1.3").takes(series)
    assert not SeriesQuery(patient="7", description="t1").takes(series)
