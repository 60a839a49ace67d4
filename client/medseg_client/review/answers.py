"""What the page asks for by address: the list of cases, facts of a case, slices. Addresses name nothing else.

cases.json
case/CASE/image.json, case/CASE/labels.json
case/CASE/PLANE/INDEX/KIND   a slice as raw bytes, rows downwards; KIND: truth, prediction, entropy, or layer-N
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg_client.review.facts import describe_labels, describe_picture, planes_of, scores_of
from medseg_client.review.labels import Labels
from medseg_client.review.pictures import Picture
from medseg_client.review.reviewed import Reviewed
from medseg_client.review.shelf import Shelf
from medseg_core.errors import MedsegError

JSON, BYTES = "application/json", "application/octet-stream"
ROOM = 2  # cases held: the one on the screen and the one before


@dataclass(frozen=True)
class Answer:
    """What goes to the browser."""

    content_type: str
    body: bytes
    status: HTTPStatus = HTTPStatus.OK


NOT_FOUND = Answer("text/plain; charset=utf-8", b"There is nothing here.\n", HTTPStatus.NOT_FOUND)


@dataclass(frozen=True)
class Material:
    """Everything that may be looked at."""

    cases: Sequence[Reviewed]
    dice: Mapping[str, float] = field(default_factory=dict)
    uncertainty: Mapping[str, float] = field(default_factory=dict)
    is_predicting: bool = False  # a model makes the predictions, which takes its time


class Answers:
    """Answers for addresses; holds the cases that were opened last."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._cases = {case.case_id: case for case in material.cases}
        self._pictures: Shelf[Picture] = Shelf(self._open_picture, ROOM)
        self._labels: Shelf[Labels] = Shelf(self._open_labels, ROOM)
        self._facts: Shelf[bytes] = Shelf(self._describe_labels, ROOM)

    def answer(self, address: str) -> Answer:
        """The answer to an address below the page's; NOT_FOUND for all that is not one of the above."""
        try:
            match address.split("/"):
                case ["cases.json"]:
                    return _json(self._list())
                case ["case", name, "image.json"] if name in self._cases:
                    return _json(describe_picture(self._pictures.get(name)))
                case ["case", name, "labels.json"] if name in self._cases:
                    return Answer(JSON, self._facts.get(name))
                case ["case", name, "dice.json"] if name in self._cases:
                    return _json({"dice": self._dice(name)})
                case ["case", name, plane, index, kind] if name in self._cases:
                    return self._slice(name, plane, index, kind)
        except MedsegError as error:
            return _json({"fault": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except MemoryError:
            fault = "there is not enough memory to open this case. Close other programs and try again."
            return _json({"fault": fault}, HTTPStatus.UNPROCESSABLE_ENTITY)
        return NOT_FOUND

    def _list(self) -> dict[str, Any]:
        material = self._material
        return {
            "predicts": material.is_predicting,
            "cases": [
                {
                    "id": case.case_id,
                    "about": case.about,
                    "truth": case.has_truth,
                    "prediction": case.has_prediction,
                    "dice": material.dice.get(case.case_id),
                    "uncertainty": material.uncertainty.get(case.case_id),
                }
                for case in material.cases
            ],
        }

    def _slice(self, name: str, plane: str, index: str, kind: str) -> Answer:
        grid = self._pictures.get(name).grid
        planes = planes_of(grid)
        if plane not in planes or not (index.isascii() and index.isdecimal() and len(index) < 8):
            return NOT_FOUND
        axis, number = planes[plane], int(index)
        voxels = self._voxels(name, kind)
        if voxels is None or number >= (1 if axis is None else grid.shape[axis]):
            return NOT_FOUND
        shown = voxels if axis is None else voxels[(slice(None),) * axis + (number,)]  # `take` would copy all
        rows = np.ascontiguousarray(shown.swapaxes(0, 1))
        return Answer(BYTES, rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes())

    def _voxels(self, name: str, kind: str) -> npt.NDArray[Any] | None:
        """The array of a kind, on the grid of the screen; None where there is none."""
        if kind in ("truth", "prediction", "entropy"):
            found: npt.NDArray[Any] | None = getattr(self._labels.get(name), kind)
            return found
        layers = self._pictures.get(name).layers
        return next((layer.voxels for n, layer in enumerate(layers) if kind == f"layer-{n}"), None)

    def _dice(self, name: str) -> float | None:
        """The score of a case that is not looked at: the shelves are for those that are."""
        picture = self._cases[name].picture()
        dice: float | None = scores_of(self._cases[name].labels(picture), picture.grid)["dice"]
        return dice

    def _open_picture(self, name: str) -> Picture:
        return self._cases[name].picture()

    def _open_labels(self, name: str) -> Labels:
        return self._cases[name].labels(self._pictures.get(name))

    def _describe_labels(self, name: str) -> bytes:
        facts = describe_labels(self._labels.get(name), self._pictures.get(name).grid)
        return _json(facts).body


def _json(document: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(JSON, json.dumps(document).encode(), status)
