"""What a site may tell of itself when it describes its cases: numbers, and names out of short fixed lists. No text.

It travels as scalars of the reply, which a coordinator of an earlier release passes over; the description's counts stay
as they were. A name out of a list is a scalar of its own, 1: `device/cuda`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Device = Literal["cpu", "cuda", "mps"]
Released = Literal["training", "validation", "test"]
Part = Annotated[int, Field(ge=0, lt=10_000)]
Version = tuple[Part, Part, Part]
Number = Annotated[int, Field(ge=0, lt=2**53)]
Length = Annotated[float, Field(gt=0, le=1e6)]

_VERSIONS = ("medseg", "torch")
_NUMBERS = (
    "memory_gib",
    "cpu_threads",
    "rounds_left",
    "evaluations_left",
    "min_patients_update",
    "min_patients_score",
    "max_parameters",
)
_AXES = ("spacing_mm", "size_voxels")


class SiteFacts(BaseModel):
    """Machine, software, cohort and policy of a site, as far as they decide whether a run can go well there."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    medseg: Version
    torch: Version
    device: Device
    memory_gib: Number  # of the device: the GPU's own, else the machine's
    cpu_threads: Number  # that the trainer may use
    spacing_mm: Annotated[tuple[Length, ...], Field(max_length=3)]  # median over cases; none where not told
    size_voxels: Annotated[tuple[Number, ...], Field(max_length=3)]  # median over cases
    rounds_left: Number  # of the task's budget
    evaluations_left: Number
    min_patients_update: Number
    min_patients_score: Number
    max_parameters: Number
    max_update_norm: Annotated[float, Field(gt=0)] | None  # longer updates are scaled down; None: none are
    released: tuple[Released, ...]  # figures that may leave

    def to_scalars(self) -> dict[str, float | None]:
        """As scalars of an answer, all of names in FACT_NAMES."""
        told: dict[str, float | None] = {name: float(getattr(self, name)) for name in _NUMBERS}
        for name in (*_VERSIONS, *_AXES):
            told |= {f"{name}/{place}": float(value) for place, value in enumerate(getattr(self, name))}
        told |= {f"device/{self.device}": 1.0, "max_update_norm": self.max_update_norm}
        return told | {f"released/{name}": 1.0 for name in self.released}


FACT_NAMES = {
    *_NUMBERS,
    "max_update_norm",
    *(f"{name}/{place}" for name in (*_VERSIONS, *_AXES) for place in range(3)),
    *(f"device/{name}" for name in get_args(Device)),
    *(f"released/{name}" for name in get_args(Released)),
}


def read_facts(scalars: Mapping[str, float | None]) -> SiteFacts | None:
    """The facts in a description's scalars; None where a site keeps them, or tells what cannot be."""
    told = {name: value for name, value in scalars.items() if name in FACT_NAMES and value is not None}
    document: dict[str, object] = {name: _whole(told[name]) for name in _NUMBERS if name in told}
    document |= {name: tuple(map(_whole, _in_places(told, name))) for name in (*_VERSIONS, "size_voxels")}
    document["spacing_mm"] = tuple(_in_places(told, "spacing_mm"))
    document["device"] = next(iter(_named(told, "device", Device)), None)
    document["released"] = tuple(_named(told, "released", Released))
    document["max_update_norm"] = told.get("max_update_norm")
    try:
        return SiteFacts.model_validate(document)
    except ValidationError:
        return None


def version_parts(text: str) -> Version:
    """The first three numbers of a version: of 2.13.0+cpu, 2, 13 and 0."""
    numbers = [min(int(part), 9999) for part in re.findall(r"\d+", text.split("+")[0])[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def _named(told: Mapping[str, float], name: str, choices: object) -> list[str]:
    """Which of the names out of a list are told."""
    return [choice for choice in get_args(choices) if told.get(f"{name}/{choice}") == 1]


def _in_places(told: Mapping[str, float], name: str) -> Iterator[float]:
    """The values of name/0, name/1, name/2, as far as they are told."""
    return (told[key] for place in range(3) if (key := f"{name}/{place}") in told)


def _whole(value: float) -> int | float:
    """An integer where the value is one; the model refuses what is none."""
    return int(value) if value == int(value) else value
