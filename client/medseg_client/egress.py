"""The one way out of a site: every envelope is checked here, then entered in the ledger, then signed and released.

The guard alone holds the site's signing key. Nobody else can make an envelope that the coordinator believes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medseg_client.answered import Answered
from medseg_client.budget import budget_left, require_budget
from medseg_client.ledger import Event, Ledger
from medseg_client.policy import Policy
from medseg_core.assessment.metrics import METRICS
from medseg_core.errors import WireError
from medseg_core.federation.codec import code, encode_kinds
from medseg_core.federation.codecs import Codec
from medseg_core.federation.codecs.base import Entries
from medseg_core.federation.update import DELTA, ModelSpec, check_update, spec_for
from medseg_core.learning.scope import SCOPE_FIGURES, UNCERTAINTY
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, naming, seal
from medseg_core.wire.header import (
    GAIN,
    PERSONAL,
    SCOPE,
    SCOPE_WANTED,
    SCORE,
    SCORED_CASES,
    Header,
    Kind,
    refusal_to,
    reply_to,
)
from medseg_core.wire.site_facts import FACT_NAMES

Tensors = Mapping[str, npt.NDArray[np.float32]]

_COUNTED = {
    f"{purpose}_{what}" for purpose in ("train", "validation", "test") for what in ("cases", "patients")
}
_COUNTS = {
    "describe": {*_COUNTED, "train_voxels"},
    "train": {"cases", "steps", SCORED_CASES},
    "evaluate": {"cases"},
    "publish": {"files", "bytes"},
}
_TRAINING = {"loss", "training_s", "waiting_s", "update_norm"}
_TEST = {
    *METRICS,
    "dice_low",
    "dice_high",
    "n_cases",
    "n_patients",
    "n_empty",
    *(f"{m}_cases" for m in METRICS),
}


@dataclass(frozen=True)
class Question:
    """A request that is the coordinator's own: its header and payload, and the SHA-256 of all its bytes."""

    header: Header
    payload: bytes
    sha256: str


class EgressGuard:
    """Checks, enters, signs and releases what leaves a site.

    A site in a simulation has no policy and no ledger: its owner sits at the same machine.
    """

    def __init__(
        self, key: Ed25519PrivateKey, *, policy: Policy | None = None, ledger: Ledger | None = None
    ) -> None:
        self.policy, self._key, self._ledger = policy, key, ledger
        self._answered = ledger.answered if ledger else Answered()

    def require_allowed(self, question: Question, n_patients: int | None = None) -> None:
        """An answer to the question would be within policy and budget. Raises PolicyError.

        The trainer asks before it works, the guard again before it releases.
        """
        if self.policy is None:
            return
        header = question.header
        if header.kind == "evaluate" and header.split is not None:
            self.policy.require_statistics(header.split)
        if n_patients is not None:
            self.policy.require_patients(header.kind, n_patients)
        self._require_budget(header.kind, question)

    def require_score_allowed(self, question: Question, n_patients: int) -> None:
        """The score that a train request asks for may leave with the update. Raises PolicyError, WireError."""
        if self.policy is None:
            return
        self.policy.require_statistics("validation")
        self.policy.require_patients("evaluate", n_patients)
        self._require_budget("evaluate", question)

    @property
    def fewest_in_figures(self) -> int:
        """Patients whom a figure has to rest on."""
        return self.policy.min_patients_score if self.policy else 1

    def scope_allowed(self, n_train: int, n_validation: int) -> tuple[bool, bool]:
        """Whether moments of so many training and validation patients may leave with the test figures.

        Those of training tell of the cohort, as a description does (`site`), those of validation of scores.
        """
        if self.policy is None:
            return True, True
        told, least = self.policy.statistics, self.fewest_in_figures
        return "site" in told and n_train >= least, "validation" in told and n_validation >= least

    def budget_left(self, kind: Kind, task: str) -> int:
        """How many more answers of a kind the policy, which is there, gives to a task."""
        assert self.policy is not None
        return budget_left(self.policy, kind, task, self._answered)

    def _require_budget(self, kind: Kind, question: Question) -> None:
        assert self.policy is not None
        require_budget(
            self.policy,
            kind,
            question.header,
            request_sha256=question.sha256,
            answered=self._answered,
        )

    def release_update(
        self,
        question: Question,
        update: Tensors,
        spec: ModelSpec,
        *,
        counts: Mapping[str, int],
        scalars: Mapping[str, float | None],
        n_patients: int,
        scored_patients: int = 0,
        others: Mapping[str, Tensors] = MappingProxyType({}),
        declared: Sequence[str] = (DELTA,),
        codec: Codec | None = None,
        late: Tensors = MappingProxyType({}),
        agreed_norm: float | None = None,
    ) -> tuple[Envelope, Tensors, Tensors]:
        """A training reply: exactly the tensors of the global model, finite, not longer than policy allows.

        Besides, the update as it arrives, and what a codec with error feedback left over of the parameters: of what was
        to leave, the part that does not.
        `late` is what it left over last time. Training that led no further than `agreed_norm`, the coordinator's bound,
        arrives no longer than that, whatever a codec adds.
        `others` are further tensors by kind; all kinds are those that the algorithm declared, none is missing.
        `scalars` may hold scores, which rest on `scored_patients`.
        Raises UpdateError, PolicyError.
        """
        norm = before = trained = check_update(update, spec, max_norm=None)
        if late:
            update = {
                name: tensor + late[name] if name in late else tensor for name, tensor in update.items()
            }
            norm = before = check_update(update, spec, max_norm=None)
        for kind, tensors in others.items():
            check_update(tensors, spec_for(kind, spec), max_norm=None)
        if {DELTA, *others} != set(declared):
            raise WireError(RefusalCode.NOT_RELEASED, f"undeclared tensors {sorted(others)!r:.200}")
        limit = self.policy.max_update_norm if self.policy else None
        if limit is not None and norm > limit:
            update = _scaled(update, limit / norm)
        if agreed_norm is not None and trained <= agreed_norm:
            limit = min(agreed_norm, limit or agreed_norm)
        coded, arriving, norm = _within(limit, update, spec, codec)
        self.require_allowed(question, n_patients)
        if scalars.keys() & {SCORE, GAIN}:
            self.require_score_allowed(question, scored_patients)
        told = {**scalars, "update_norm": norm}
        _require_declared(told, _TRAINING | {GAIN} | ({SCORE} if question.header.split else set()))
        if self.policy and "training" not in self.policy.statistics:
            told = {name: figure for name, figure in told.items() if name in (SCORE, GAIN)}
        header = reply_to(question.header, counts=_declared_counts(question, counts), scalars=_defined(told))
        payload = encode_kinds({DELTA: coded, **others}, main=DELTA)
        fed_back = spec_for("left_over", spec).tensors if codec and codec.error_feedback else ()
        left_over = {name: update[name] - arriving[name] for name in fed_back}
        return self._release(question, header, payload, norm, before), arriving, left_over

    def release_figures(
        self,
        question: Question,
        *,
        counts: Mapping[str, int],
        n_patients: int,
        scalars: Mapping[str, float | None] = MappingProxyType({}),
        labels: Sequence[str] = (),
        scope_patients: tuple[int, int] = (0, 0),
    ) -> Envelope:
        """A reply of figures alone: those that are known here by name, with a label of the task before it or none.

        Moments of the model's scope rest on `scope_patients`, of training and validation; those that policy keeps are
        left out. A figure that is not finite leaves as null. Raises PolicyError.
        """
        self.require_allowed(question, n_patients)
        if question.header.kind == "describe" and self.policy and "site" not in self.policy.statistics:
            scalars = {}
        scalars = self._within_scope(scalars, scope_patients)
        _require_declared(scalars, _figures(question.header, labels))
        header = reply_to(
            question.header, counts=_declared_counts(question, counts), scalars=_defined(scalars)
        )
        return self._release(question, header, b"")

    def _within_scope(
        self, scalars: Mapping[str, float | None], patients: tuple[int, int]
    ) -> Mapping[str, float | None]:
        """The figures without moments that policy keeps, or that rest on fewer cases than it wants patients."""
        training, validation = self.scope_allowed(*patients)

        def may_leave(name: str) -> bool:
            if not name.startswith(SCOPE):
                return True
            feature = name.rpartition("/")[0]
            is_enough = (scalars.get(f"{feature}/n") or 0) >= self.fewest_in_figures
            return is_enough and (validation if feature == f"{SCOPE}{UNCERTAINTY}" else training)

        return {name: value for name, value in scalars.items() if may_leave(name)}

    def release_refusal(self, question: Question, code: RefusalCode) -> Envelope:
        """A refusal: a code, no text."""
        return self._release(question, refusal_to(question.header, code), b"")

    def release_again(self, question: Question, reply: bytes) -> bytes:
        """The stored reply to a request that came again, as it is; the ledger notes it the first time."""
        if self._ledger is not None and not self._answered.is_repeated(question.sha256):
            header = Envelope.from_bytes(reply, max_bytes=len(reply)).header
            self._ledger.append(_event("repeat", question, header))
        return reply

    def turn_away(self, data: bytes | bytearray, code: RefusalCode) -> None:
        """Note bytes that are no request of the coordinator, and get a bare code.

        Raises UnusableFolderError, LedgerError.
        """
        if self._ledger is not None:
            self._ledger.turn_away(data, code)

    def _release(
        self,
        question: Question,
        header: Header,
        payload: bytes,
        norm: float | None = None,
        norm_before_clip: float | None = None,
    ) -> Envelope:
        """The last step of everything that leaves for the first time: size, ledger, signature."""
        if self.policy is not None:
            self.policy.require_size(len(payload))
        if self._ledger is None:
            return seal(header, payload, self._key)
        header = naming(header, payload)
        line = self._ledger.last
        if line is None or not self._is_noted(question, header):
            event = _event("answer", question, header, update_norm=norm, norm_before_clip=norm_before_clip)
            line = self._ledger.append(event, payload)
        under = {"ledger_sequence": line.entry.sequence, "ledger_head": line.sha256}
        return seal(header.model_copy(update=under), payload, self._key)

    def _is_noted(self, question: Question, header: Header) -> bool:
        """The same refusal of the same request has its line: who repeats it cannot fill the disk."""
        return header.code is not None and self._answered.is_refused(question.sha256, header.code)


def _event(kind: str, question: Question, header: Header, **more: float | None) -> Event:
    """A line of the ledger about an answer to a question."""
    model_sha256 = question.header.model_sha256
    facts = {"event": kind, "header": header, "request_sha256": question.sha256, "model_sha256": model_sha256}
    return Event.model_validate(facts | more)


def _scaled(update: Tensors, factor: float) -> Tensors:
    """The update times the factor, a rounding error short of it."""
    short = np.float32(factor * (1 - 2**-20))  # float32 rounds by 2^-24; the sum of squares must stay below
    return {name: tensor * short for name, tensor in update.items()}


def _within(
    limit: float | None, update: Tensors, spec: ModelSpec, codec: Codec | None
) -> tuple[Entries, Tensors, float]:
    """The update as it is written and as it arrives, and its norm there: a codec can make it longer than the limit."""
    coded, arriving = code(update, spec, codec)
    norm, factor = check_update(arriving, spec, max_norm=None), 1.0
    for shorter in (1, 1 - 2**-8, 1 - 2**-4):  # bfloat16 rounds by 2^-9
        if limit is None or norm <= limit:
            break
        factor *= shorter * limit / norm
        coded, arriving = code(_scaled(update, factor), spec, codec)
        norm = check_update(arriving, spec, max_norm=None)
    return coded, arriving, check_update(arriving, spec, max_norm=limit)


def _figures(request: Header, labels: Sequence[str]) -> set[str]:
    """Names of the figures that an answer may hold."""
    match request.kind, request.split:
        case "evaluate", "validation":
            return {"dice"}
        case "evaluate", "test":
            figures = _TEST | {f"{label}/{name}" for label in labels for name in _TEST}
            figures |= {f"{PERSONAL}{name}" for name in figures}
            return figures | (SCOPE_FIGURES if request.counts.get(SCOPE_WANTED) else set())
        case "describe", _:
            return FACT_NAMES
        case _:
            return set()


def _declared_counts(question: Question, counts: Mapping[str, int]) -> Mapping[str, int]:
    """The counts, all of names that are known for the kind."""
    _require_declared(counts, _COUNTS[question.header.kind])
    return counts


def _require_declared(figures: Iterable[str], allowed: set[str]) -> None:
    """No figure besides those declared: a name could hold text. Raises WireError."""
    if undeclared := set(figures) - allowed:
        raise WireError(RefusalCode.NOT_RELEASED, f"undeclared figures {sorted(undeclared)!r:.200}")


def _defined(scalars: Mapping[str, float | None]) -> dict[str, float | None]:
    """Figures that are not finite as null."""
    return {name: v if v is not None and math.isfinite(v) else None for name, v in scalars.items()}
