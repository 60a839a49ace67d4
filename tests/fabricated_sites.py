"""Sites that train nothing: another process writes each signed reply into a file, the transport reads one at a time.

For measuring the server alone: this process holds no more of a reply than a real transport would.
"""

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from builders import make_experiment, opened, scripted_site, site_key

from medseg_core.config import Experiment
from medseg_core.federation.codec import encode_tensors
from medseg_core.wire.envelope import seal
from medseg_core.wire.header import Header, reply_to
from medseg_server.transport import Delivery

Shapes = Mapping[str, tuple[int, ...]]


def model_of_size(parameters: float) -> dict[str, Any]:
    """A 2D U-Net of five levels with about so many parameters: 3,270 for each square of its first level's channels."""
    first = round((parameters / 3270) ** 0.5)
    return {"channels": [first * 2**level for level in range(5)], "residual_units": 1}


def experiment_of_size(parameters: float, **changes: Mapping[str, Any]) -> Experiment:
    """An experiment with the model of that size."""
    return make_experiment(
        **{"model": model_of_size(parameters), "training": {"patch_size": [32, 32]}, **changes}
    )


@dataclass
class FabricatedSites:
    """Sites with a case each, whose updates are noise of the same seed; their files lie in `folder`.

    `seconds` is how long the sites took. Use it as a context.
    """

    names: tuple[str, ...]
    shapes: Shapes
    folder: Path
    seconds: float = 0.0
    _sites: ProcessPoolExecutor = field(init=False)

    def __enter__(self) -> "FabricatedSites":
        self._sites = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._sites.submit(write_update, self.shapes, self.folder / "update").result()
        return self

    def __exit__(self, *exception: object) -> None:
        self._sites.shutdown()

    def sites(self) -> tuple[str, ...]:
        return self.names

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:
        for site, header in {site: opened(requests[site]).header for site in requests}.items():
            began, path = time.perf_counter(), self.folder / "reply"
            self._sites.submit(write_reply, header, self.folder / "update", path).result()
            self.seconds += time.perf_counter() - began
            yield Delivery(site, path.read_bytes())


def write_update(shapes: Shapes, path: Path) -> None:
    """The payload of all sites."""
    rng = np.random.default_rng(0)
    update = {name: np.float32(1e-3) * rng.standard_normal(s, np.float32) for name, s in shapes.items()}
    path.write_bytes(encode_tensors(update))


def write_reply(request: Header, update: Path, path: Path) -> None:
    """The reply of the site that is asked."""
    if request.kind == "train":
        reply = reply_to(request, counts={"cases": 1, "steps": 1}, scalars={"loss": 1.0})
        path.write_bytes(seal(reply, update.read_bytes(), site_key(request.site)).to_bytes())
    else:
        answer = scripted_site(request.site, lambda request: {})
        written = answer(seal(request, b"", site_key(request.site)))
        assert isinstance(written, bytes)
        path.write_bytes(written)
