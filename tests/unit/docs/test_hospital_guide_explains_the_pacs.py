"""The hospital's guide: every key of [pacs] and of a query is explained, and its examples are settings."""

import re
import tomllib
from dataclasses import fields

import pytest
from documents import ROOT, blocks

from medseg_client.pacs import SeriesQuery
from medseg_client.pacs_settings import DicomWeb, Dimse, PacsSettings

GUIDE = ROOT / "docs" / "hospital.md"
KEYS = sorted({*DicomWeb.model_fields, *Dimse.model_fields, *(field.name for field in fields(SeriesQuery))})


@pytest.mark.parametrize("key", KEYS)
def test_the_guide_names_the_key(key: str) -> None:
    assert f"`{key}`" in GUIDE.read_text(encoding="utf-8")


def test_the_examples_are_settings() -> None:
    found = [tomllib.loads("\n".join(block.lines)) for block in blocks(GUIDE, "toml")]
    ways = [PacsSettings.model_validate(document["pacs"]) for document in found if "pacs" in document]
    assert [way.dimse is None for way in ways] == [True, False]


def test_the_queries_are_queries() -> None:
    queries = re.findall(r"pacs:[a-z]+=[^ ,`]+(?:,[a-z]+=[^ ,`]+)*", GUIDE.read_text(encoding="utf-8"))
    assert [SeriesQuery.parse(text).study for text in queries] == ["1.2.840.99.1"]
