"""Small cohorts with predictions, and the page of `medseg-site review` served for them."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medseg_client.review.answers import Answers, Material
from medseg_client.review.cases import Predictions, cases_to_review, find_predictions
from medseg_client.review.labels import LabelSource
from medseg_client.review.page import with_page
from medseg_client.review.reviewed import file_cases
from medseg_client.review.server import ReviewServer
from medseg_core.config import Task

SHAPE, SPACING = (20, 24, 10), (1.0, 0.5, 2.5)  # (i, j, k) along left, posterior, superior
LIST = {"predictions": [{"labels": {"core": {"value": 1}, "rim": {"value": 2}}}]}


def write_grid(path: Path, array: Any, *, spacing: Any = SPACING, direction: Any = None) -> Path:
    """An array `(i, j[, k])` as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(array).T))
    image.SetSpacing(spacing[: np.ndim(array)])
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def make_scan(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1500, SHAPE).astype(np.int16)


def make_truth() -> np.ndarray:
    """A box of 4 x 6 x 4 voxels of label 1 beside one of 4 x 6 x 2 of label 2."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:8, 6:12, 2:6] = 1
    labels[10:14, 6:12, 2:4] = 2
    return labels


def make_prediction() -> np.ndarray:
    """The truth less half of label 1: of its four slices the upper two."""
    labels = make_truth()
    labels[:, :, 4:6] = 0
    return labels


def write_cohort(folder: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """Scans with truth, and predictions of all but the last in `folder/predictions`."""
    rows = ["case_id,patient_id,site,image,label"]
    for n, name in enumerate(names):
        write_grid(folder / f"images/{name}_ct.nii.gz", make_scan(n))
        write_grid(folder / f"labels/{name}.nii.gz", make_truth())
        rows.append(f"{name},p{n},north,images/{name}_ct.nii.gz,labels/{name}.nii.gz")
    for name in names[:-1]:
        write_grid(folder / f"predictions/{name}_ct_segmentation.nii.gz", make_prediction())
    (folder / "predictions/predictions.json").write_text(json.dumps(LIST))
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def material_of(
    folder: Path, *, has_predictions: bool = True, task: Task | None = None, segment: Any = None, **facts: Any
) -> Material:
    """What may be looked at in a folder of `write_cohort`."""
    cohort = cases_to_review(folder, None)
    found = find_predictions(folder / "predictions", cohort.cases) if has_predictions else Predictions()
    return Material(file_cases(cohort.cases, LabelSource(found, task, segment), cohort.channels), **facts)


@dataclass(frozen=True)
class Reply:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    """A server at work, and the addresses that it told."""

    server: ReviewServer
    told: list[str]

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> Reply:
        """The reply to one request, redirections not followed; a header of None is left away."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        reply = Reply(answer.status, dict(answer.headers), answer.read())
        connection.close()
        return reply

    def enter(self) -> str:
        """Use the address that was told last; the page's own."""
        return self.ask("/" + self.told[-1].rsplit("/", 1)[1]).headers["Location"]


@contextmanager
def served(material: Material) -> Iterator[Site]:
    """The page, until the end of the block."""
    told: list[str] = []
    server = ReviewServer(0, with_page(Answers(material).answer), tell=told.append)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Site(server, told)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
