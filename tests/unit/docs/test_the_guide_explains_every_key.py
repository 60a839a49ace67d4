"""The table of the experiment file in the guide: every key, under its section, with its default."""

import json
import re
import tomllib
from typing import Any, get_args

import pytest
from documents import GUIDE, blocks
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from medseg_core.config import Experiment, parse_experiment

SECTION = re.compile(r"\*\*(.+)\*\*")
NAMES = re.compile(r"`\[?([\w.]+)\]?`")


def sections_of(model: type[BaseModel], path: str = "") -> dict[str, type[BaseModel]]:
    """Each section of an experiment, by its path in the file."""
    found = {path: model} if path else {}
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            found |= sections_of(inner, f"{path}.{name}".lstrip("."))
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def described() -> dict[tuple[str, str], tuple[str, str]]:
    """(section, key) -> (default, meaning), as the guide has them."""
    found, sections = {}, []
    for line in GUIDE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (heading := SECTION.fullmatch(cells[0])):
            sections = NAMES.findall(heading[1])
        elif sections and not cells:
            sections = []
        elif sections:
            names = NAMES.findall(cells[0])
            found |= {(section, name): (cells[2], cells[3]) for section in sections for name in names}
    return found


DESCRIBED = described()
KEYS = [
    pytest.param(section, name, field, id=f"{section}.{name}")
    for section, model in sections_of(Experiment).items()
    for name, field in model.model_fields.items()
]


def shown_default(field: Any) -> str:
    """The default as the guide writes it: in TOML, which for these values is JSON."""
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    return f"`{json.dumps(field.default) if field.default is not None else 'none'}`"


@pytest.mark.parametrize(("section", "name", "field"), KEYS)
def test_a_key_is_explained_with_its_default(section, name, field):
    default, meaning = DESCRIBED[section, name]

    assert default == shown_default(field)
    assert meaning


def test_no_key_is_explained_that_is_not_there():
    assert set(DESCRIBED) == {(param.values[0], param.values[1]) for param in KEYS}


def test_the_experiment_of_the_guide_is_one():
    block, *_ = blocks(GUIDE, "toml")

    experiment = parse_experiment(tomllib.loads("\n".join(block.lines)), source="guide")

    assert experiment.simulation.baselines == ("local", "pooled")
