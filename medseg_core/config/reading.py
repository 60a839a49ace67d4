"""From TOML to an experiment and back; faults become sentences."""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import tomli_w
from pydantic import ValidationError

from medseg_core.config.experiment import Experiment
from medseg_core.config.section import Section
from medseg_core.errors import ExperimentFileError

_Document = TypeVar("_Document", bound=Section)


def read_experiment(path: Path) -> Experiment:
    """The experiment in a TOML file. Raises ExperimentFileError with every fault found."""
    return parse_experiment(read_toml(path), source=str(path))


def parse_experiment(document: dict[str, Any], *, source: str) -> Experiment:
    """The experiment in a parsed document. Raises ExperimentFileError naming `source`."""
    return parse_document(Experiment, document, source=source)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ExperimentFileError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentFileError(
            str(path), ["no such file. Give an experiment file, or --preset NAME"]
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ExperimentFileError(str(path), [f"not readable as TOML ({error})"]) from None


def parse_document(kind: type[_Document], document: dict[str, Any], *, source: str) -> _Document:
    """A parsed document as settings of `kind`, a number written as text or a truth as a number among its faults.

    Raises ExperimentFileError naming `source`, with every fault found.
    """
    try:  # as JSON, of which alone pydantic takes lists for tuples while it is strict
        return kind.model_validate_json(json.dumps(document, default=_as_json), strict=True)
    except ValidationError as error:
        raise ExperimentFileError(source, _sentences(kind, error.errors())) from None


def _as_json(value: object) -> object:
    """A path as text; a date or time of TOML, which no key takes, as what no key takes."""
    return str(value) if isinstance(value, Path) else {"date or time": str(value)}


def experiment_toml(experiment: Experiment) -> str:
    """The resolved experiment as TOML; `parse` of it gives the experiment again."""
    return tomli_w.dumps(experiment.model_dump(mode="json", exclude_none=True))


def experiment_sha256(experiment: Experiment) -> str:
    """Identity of an experiment: what a hospital approves and every envelope names."""
    return hashlib.sha256(experiment_toml(experiment).encode()).hexdigest()


def _sentences(kind: type[Section], faults: Sequence[Any]) -> list[str]:
    """One for each place: pydantic tells a fault for each type that a value there may have.

    And of a list with a faulty part besides that it is too short without.
    """
    at_place: dict[tuple[str, ...], list[Any]] = {}
    for fault in faults:
        at_place.setdefault(_place(kind, fault["loc"]), []).append(fault)

    def is_of_a_part(other: tuple[str, ...], where: tuple[str, ...]) -> bool:
        return len(other) > len(where) and other[: len(where)] == where and other[len(where)] != "[key]"

    return [
        _sentence(kind, list(where), its)
        for where, its in at_place.items()
        if not any(is_of_a_part(other, where) for other in at_place)
    ]


def _place(kind: type[Section], location: Sequence[str | int]) -> tuple[str, ...]:
    """The keys that lead to a fault: without what pydantic calls the one of several types that it tried there."""
    place, annotation = list[str](), cast("Any", kind)
    for part in location:
        types = _types_in(annotation)
        if len(types) > 1 and part != "[key]":
            annotation = next((t for t in types if str(part).startswith(_name_of(t))), None)
        else:
            place.append(str(part))
            annotation = _inside(types[0], part) if types else None
    return tuple(place)


def _types_in(annotation: Any) -> list[Any]:
    """The types that a value may have, besides none."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _types_in(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [t for part in get_args(annotation) for t in _types_in(part) if t is not type(None)]
    return [annotation]


def _name_of(annotation: Any) -> str:
    return str(getattr(get_origin(annotation) or annotation, "__name__", annotation))


def _inside(annotation: Any, part: str | int) -> Any:
    """The type of the value at a key or a place of a value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field else None
    inner = get_args(annotation)
    return inner[-1] if get_origin(annotation) in (dict, Mapping) else inner[0] if inner else None


def _sentence(kind: type[Section], where: list[str], faults: Sequence[Any]) -> str:
    """The faults of one place as a sentence with section, key and remedy."""
    section, key = ".".join(where[:-1]), where[-1] if where else ""
    if faults[0]["type"] != "extra_forbidden":
        told = list(dict.fromkeys(_in_plain_words(fault["msg"]) for fault in faults))
        told[1:] = [text[:1].lower() + text[1:] for text in told[1:]]
        text, found = ", or ".join(told), faults[0]["input"]
        place = f"[{section}] {key}: " if section else f"{key}: "
        return f"{place}{text}, got {found!r:.80}{_nearest(found, faults)}" if where else text
    known = _keys_at(kind, where[:-1])
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"[{section}] has no key {key!r}; {hint}" if section else f"there is no section [{key}]; {hint}"


def _in_plain_words(message: str) -> str:
    """What pydantic says, without words of Python."""
    return (
        message.removeprefix("Value error, ")
        .replace("Tuple should", "A list here should")
        .replace(" after validation", "")
    )


def _nearest(found: object, faults: Sequence[Any]) -> str:
    """The value that was meant, where only some are known."""
    known = [n for f in faults if f["type"] == "literal_error" for n in re.findall("'([^']+)'", f["msg"])]
    near = difflib.get_close_matches(str(found).lower(), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _keys_at(kind: type[Section], location: list[str]) -> list[str]:
    """Known keys of the section at a location."""
    model: Any = kind
    for part in location:
        annotation = (
            model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else model
        )
        model = _section_in(annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> Any:
    """The Section class inside an annotation such as `Augmentation | None` or `tuple[Channel, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section_in(part))), None)
