"""Small experiments, cases, sites and federations in memory, for tests of whole paths."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medseg_client.egress import EgressGuard
from medseg_client.ledger import Entry, Ledger, read_ledger
from medseg_client.models import Models
from medseg_client.policy import Policy
from medseg_client.site_data import SiteData
from medseg_client.site_state import SiteState
from medseg_client.trainer import SiteIdentity, Trainer
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment, experiment_sha256
from medseg_core.federation.checkpoint import global_sha256, newest_checkpoint
from medseg_core.federation.codec import encode_tensors
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights
from medseg_core.types import Case, Geometry
from medseg_core.wire.envelope import Envelope, seal
from medseg_core.wire.header import SCORE, SCORED_CASES, Header, new_nonce, reply_to
from medseg_core.wire.site_facts import SiteFacts
from medseg_server.requests import Coordinator
from medseg_server.rounds import Run
from medseg_server.run_store import RunStore
from medseg_server.transport import Delivery, asked_anew

COORDINATOR_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
Weights = Mapping[str, npt.NDArray[np.float32]]


def make_experiment(**changes: Mapping[str, Any]) -> Experiment:
    """A 2D experiment with the smallest U-Net; `changes` are by section."""
    document: dict[str, Any] = {
        "task": {
            "name": "squares",
            "spatial_dims": 2,
            "channels": [{"name": "grey"}],
            "labels": {"square": 1},
        },
        "model": {"channels": [4, 8], "residual_units": 1},
        "training": {
            "patch_size": [16, 16],
            "augmentation": False,
            "cpu_threads": 1,
            "learning_rate": 0.01,
        },
        "federation": {"rounds": 2},
        "evaluation": {"bootstrap_samples": 10},
    }
    for section, values in changes.items():
        document[section] = document.get(section, {}) | dict(values)
    return Experiment.model_validate(document)


def make_case(
    case_id: str, shape: tuple[int, ...] = (20, 18), *, patient: str = "", site: str = "north"
) -> PreprocessedCase:
    """A noisy image with a bright square and its label; content depends on the name alone."""
    rng = np.random.default_rng(sum(map(ord, case_id)))
    label = np.zeros(shape, np.uint8)
    corner = [int(rng.integers(n // 2)) for n in shape]
    label[tuple(slice(at, at + n // 3) for at, n in zip(corner, shape, strict=True))] = 1
    image = (rng.standard_normal(shape) + 2 * label).astype(np.float32)[None]
    where = np.argwhere(label == 1)
    geometry = Geometry(
        shape, (1.0,) * len(shape), (0.0,) * len(shape), tuple(np.eye(len(shape)).ravel().tolist())
    )
    return PreprocessedCase(
        case=Case(case_id, patient or f"patient-of-{case_id}", site, (Path("/images") / case_id,), None),
        image=image,
        label=label,
        foreground=np.column_stack([np.ones(len(where)), where]).astype(np.int32),
        geometry=geometry,
        original=geometry,
        label_voxels=(int(label.sum()),),
    )


def make_site_data(site: str = "north", train: int = 3, validation: int = 1, test: int = 2) -> SiteData:
    """So many cases for each purpose, one a patient."""

    def some(purpose: str, count: int) -> tuple[PreprocessedCase, ...]:
        return tuple(make_case(f"{site}-{purpose}-{n}", site=site) for n in range(count))

    return SiteData(some("train", train), some("validation", validation), some("test", test))


def site_key(site: str) -> Ed25519PrivateKey:
    """The key of a site, from its name."""
    return Ed25519PrivateKey.from_private_bytes(site.encode().ljust(32, b".")[:32])


def make_trainer(
    state: Path,
    experiment: Experiment,
    data: SiteData | Callable[[Experiment], SiteData],
    *,
    site: str = "north",
    faults: list[Exception] | None = None,
    models: Models | None = None,
    guard: EgressGuard | None = None,
) -> Trainer:
    """A site with one approved experiment, its state in `state`. Without `faults` a fault is raised here.

    Without `guard` it has neither policy nor ledger.
    """
    return Trainer(
        SiteIdentity(site, COORDINATOR_KEY.public_key()),
        SiteState(state),
        guard or EgressGuard(site_key(site)),
        approved={experiment_sha256(experiment): experiment},
        data_of=data if callable(data) else lambda _: data,
        device=torch.device("cpu"),
        models=models,
        on_fault=_raise if faults is None else faults.append,
    )


def make_guard(folder: Path, *, site: str = "north", **rules: Any) -> EgressGuard:
    """The guard of a site with a ledger in `folder` and a policy: one patient is enough unless `rules` differ."""
    policy = Policy.model_validate({"min_patients_update": 1, "min_patients_score": 1, **rules})
    ledger = Ledger(folder, site_key(site), keep_payloads_days=policy.keep_payloads_days)
    return EgressGuard(site_key(site), policy=policy, ledger=ledger)


def ledger_of(folder: Path, *, site: str = "north") -> list[Entry]:
    """Entries of a site's ledger, checked."""
    return [line.entry for line in read_ledger(folder, site_key(site).public_key()).lines]


def _raise(error: Exception) -> None:
    raise error


def make_facts(**changes: Any) -> SiteFacts:
    """What a hospital with a GPU tells of itself."""
    facts: dict[str, Any] = {
        "medseg": (0, 1, 0),
        "torch": (2, 13, 0),
        "device": "cuda",
        "memory_gib": 80,
        "cpu_threads": 16,
        "spacing_mm": (0.66, 0.66, 3.0),
        "size_voxels": (512, 512, 40),
        "rounds_left": 1900,
        "evaluations_left": 1950,
        "min_patients_update": 5,
        "min_patients_score": 6,
        "max_parameters": 50_000_000,
        "max_update_norm": 2.5,
        "released": ("training", "test"),
    }
    return SiteFacts.model_validate(facts | changes)


def initial_weights(experiment: Experiment, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of the experiment's network."""
    return dict(_initial_weights(experiment.model_dump_json(include={"task", "model"}), seed))


@functools.cache
def _initial_weights(sections: str, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    document = json.loads(sections)
    document["training"] = {"patch_size": [16] * document["task"]["spatial_dims"]}
    experiment = Experiment.model_validate(document)
    return get_weights(build_network(experiment.task, experiment.model, seed=seed))


def make_request(
    experiment: Experiment,
    kind: str = "train",
    *,
    weights: Weights | bytes | None = None,
    key: Ed25519PrivateKey = COORDINATOR_KEY,
    **fields: Any,
) -> bytes:
    """A sealed request of round 1 to site north; `weights` may be raw payload bytes."""
    header = Header.model_validate(
        {
            "kind": kind,
            "direction": "request",
            "run": "run",
            "round": 0 if kind == "describe" else 1,
            "site": "north",
            "nonce": new_nonce(),
            "task": experiment.task.name,
            "experiment_sha256": experiment_sha256(experiment),
            **fields,
        }
    )
    if kind == "describe":
        payload = b""
    elif isinstance(weights, bytes):
        payload = weights
    else:
        payload = encode_tensors(weights if weights is not None else initial_weights(experiment))
    return seal(header, payload, key).to_bytes()


def opened(data: bytes) -> Envelope:
    """An envelope without any check."""
    return Envelope.from_bytes(data, max_bytes=1 << 30)


Answering = Callable[[Envelope], bytes | list[bytes] | None]  # one delivery, several, silence


@dataclass
class ScriptedTransport:
    """Sites that answer with a function each. Everything sent is kept in `sent`."""

    answers: Mapping[str, Answering]
    order: Callable[[list[str]], list[str]] = sorted
    sent: list[Envelope] = field(default_factory=list)
    connected: tuple[str, ...] | None = None

    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self.answers)) if self.connected is None else self.connected

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:
        asked = self.order(list(requests))
        while asked:
            for site in asked:
                request = opened(requests[site])
                self.sent.append(request)
                reply = self.answers[site](request)
                for delivery in reply if isinstance(reply, list) else [reply]:
                    if delivery is not None:
                        yield Delivery(site, delivery)
            asked = asked_anew(requests)


def scripted_site(
    site: str,
    update: Callable[[Envelope], Weights],
    *,
    cases: int = 1,
    dice: Callable[[Envelope], float | None] = lambda request: 0.5,
) -> Answering:
    """A site of the other side of the wire: describes `cases`, answers training with `update`, scores with `dice`."""
    counts = {
        f"{part}_{kind}": 1 for part in ("train", "validation", "test") for kind in ("cases", "patients")
    }
    counts["train_cases"] = cases

    def answer(request: Envelope) -> bytes:
        header, payload = request.header, b""
        match header.kind:
            case "train":
                scored = header.split is not None
                reply = reply_to(
                    header,
                    counts={"cases": cases, "steps": 1} | ({SCORED_CASES: 1} if scored else {}),
                    scalars={"loss": 1.0} | ({SCORE: dice(request)} if scored else {}),
                )
                payload = encode_tensors(update(request))
            case "evaluate":
                reply = reply_to(header, counts={"cases": 1}, scalars={"dice": dice(request)})
            case _:
                reply = reply_to(header, counts=counts)
        return seal(reply, payload, site_key(site)).to_bytes()

    return answer


def constant_update(experiment: Experiment, value: float) -> Callable[[Envelope], Weights]:
    """An update that moves every weight by `value`."""
    shapes = {name: array.shape for name, array in initial_weights(experiment).items()}
    return lambda request: {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}


def make_run(folder: Path, experiment: Experiment, transport: Any, sites: tuple[str, ...] = ()) -> Run:
    """A run in `folder`, new or resumed, whose roster holds `sites` or all that the transport has."""
    store = RunStore(folder)
    identifier = store.open(experiment, run="run", resume=True)
    roster = {site: site_key(site).public_key() for site in sites or transport.sites()}
    return Run(identifier, experiment, Coordinator(COORDINATOR_KEY, roster), transport, store)


def make_federation(
    folder: Path,
    experiment: Experiment,
    data: Mapping[str, SiteData],
    faults: list[Exception] | None = None,
) -> Run:
    """Real trainers behind a transport; the coordinator's folder and the sites' state lie in `folder`."""
    trainers = {
        site: make_trainer(
            folder / "sites" / site,
            experiment,
            own,
            site=site,
            faults=faults,
            models=Models(folder / "models" / site, COORDINATOR_KEY.public_key()),
        )
        for site, own in data.items()
    }
    answers = {site: _handling(trainer) for site, trainer in trainers.items()}
    return make_run(folder / "run", experiment, ScriptedTransport(answers))


def _handling(trainer: Trainer) -> Answering:
    return lambda request: trainer.handle(request.to_bytes())


def newest_sha256(store: RunStore) -> str:
    """Identity of the newest global model of a run."""
    checkpoint = newest_checkpoint(store.checkpoints, on_torn=lambda why: None)
    assert checkpoint is not None
    return global_sha256(checkpoint.state.weights)


def newest_weights(run: Run) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of the newest global model of a run."""
    checkpoint = newest_checkpoint(run.store.checkpoints, on_torn=lambda why: None)
    assert checkpoint is not None
    return dict(checkpoint.state.weights)
