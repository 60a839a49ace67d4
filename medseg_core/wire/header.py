"""The header of an envelope: all that crosses a boundary besides tensors. Strict, bounded, versioned."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from medseg_core.errors import WireError
from medseg_core.wire import versions
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.versions import WIRE_VERSION

HEADER_BYTES_MAX = 1 << 20  # 5120 counts or scalars with the longest keys stay below
ENTRIES_MAX = 5120  # two models' scores for 200 labels: 9 metrics, 3 counts of cases; and 156 of scope
# Two a key, and some for what else a header says: each further entry may be a fault, and each fault takes a kilobyte
_QUOTES_MAX = 4 * ENTRIES_MAX + 200

Kind = Literal["describe", "train", "evaluate", "publish"]
Split = Literal["validation", "test"]
Direction = Literal["request", "reply", "refusal"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:-]{0,159}$")]
Nonce = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]  # exact in every JSON reader
RoundNumber = Annotated[int, Field(ge=0, le=1_000_000)]
Attempt = Annotated[int, Field(ge=1, le=1_000_000)]


def _spoken(version: int) -> int:
    if version not in versions.SPOKEN:
        raise ValueError(f"version {version}, spoken here: {versions.SPOKEN}")
    return version


SCORE = "validation_dice"  # in a train reply: of the model that the request brought
SCORED_CASES = "validation_cases"  # beside it
GAIN = (
    "validation_gain"  # in a train reply: how much higher the site's own model scores than the one that came
)
PERSONAL = "personal:"  # before a test figure: of the site's own model; no label's name has a colon
SCOPE = "scope:"  # before a figure beside those of the test: of cases and uncertainties that a model is for
SCOPE_WANTED = "scope"  # a count, 1, in a test request: tell them, too
_SPLITS: dict[Kind, tuple[Split | None, ...]] = {
    "describe": (None,),
    "train": (None, "validation"),
    "evaluate": ("validation", "test"),
    "publish": (None,),
}


class Header(BaseModel):
    """What an envelope says about itself. Frozen; unknown fields, text, NaN and infinity are refused.

    `scalars` uses None for a figure that is not defined, such as a score over no case. `counted_round` and
    `counted_attempt` name, in a train or evaluate request, the last update of this site that entered the global model
    that it brings (0, 0: none); `kept_round` and `kept_attempt`, in a train request, that of the best model so far,
    whose state the site is to keep. A train request with `split` asks for the validation score of the model that it
    brings, too: that of the round before. A test request whose `counts` hold `scope` asks for moments of the model's
    scope, too. Under a codec `model` names the model that a train or evaluate request brings, `best_model` the best so
    far, which the site is to hold, and `base` the model from which the payload's step leads to it; where `base` is
    `model`, the payload has nothing of it. `ledger_sequence` and `ledger_head` name, in an answer, the line of the
    site's ledger under which it left: whoever keeps them can tell later whether lines were cut from it.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    wire: Annotated[int, AfterValidator(_spoken)] = WIRE_VERSION
    kind: Kind
    direction: Direction
    run: Name
    round: RoundNumber
    attempt: Attempt = 1
    site: Name
    nonce: Nonce
    in_reply_to: Nonce | None = None
    task: Name
    experiment_sha256: Sha256
    counts: Annotated[dict[Key, Count], Field(max_length=ENTRIES_MAX)] = Field(default_factory=dict)
    scalars: Annotated[dict[Key, float | None], Field(max_length=ENTRIES_MAX)] = Field(default_factory=dict)
    payload_sha256: Sha256 | None = None
    payload_bytes: Count = 0
    counted_round: RoundNumber = 0
    counted_attempt: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    kept_round: RoundNumber = 0
    kept_attempt: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    split: Split | None = None
    model: Sha256 | None = None  # `global_sha256`
    base: Sha256 | None = None
    best_model: Sha256 | None = None
    code: RefusalCode | None = None
    ledger_sequence: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    ledger_head: Sha256 | None = None  # of the line with that number

    @model_validator(mode="after")
    def _answers_are_whole(self) -> "Header":
        if (self.direction == "request") != (self.in_reply_to is None):
            raise ValueError("in_reply_to belongs to replies and refusals, and they need it")
        if (self.direction == "refusal") != (self.code is not None):
            raise ValueError("code belongs to refusals, and they need it")
        if self.direction == "refusal" and (self.counts or self.scalars):
            raise ValueError("a refusal carries its code and no figure")
        if self.split not in _SPLITS[self.kind]:
            raise ValueError("split belongs to evaluate, which needs one; train may name validation")
        if self.kind == "train" and self.scored_round == 0:
            raise ValueError("round 1 trains from a model that no round has made: it is not scored")
        if (self.ledger_sequence is None) != (self.ledger_head is None):
            raise ValueError("ledger_sequence and ledger_head go together")
        if self.ledger_head is not None and self.direction == "request":
            raise ValueError("ledger_head belongs to replies and refusals")
        return self

    @property
    def model_sha256(self) -> str | None:
        """What names the model that a request brings: its own name, or the SHA-256 of what it always travels as."""
        return self.model or self.payload_sha256

    @property
    def scored_round(self) -> int | None:
        """The round whose model is, or would be, scored; None where no score is asked for."""
        if self.split is None:
            return None
        return self.round - 1 if self.kind == "train" else self.round

    @model_validator(mode="after")
    def _payload_where_allowed(self) -> "Header":
        if (self.payload_sha256 is None) != (self.payload_bytes == 0):
            raise ValueError("payload_sha256 and payload_bytes go together")
        if self.payload_bytes and not may_carry_payload(self):
            raise ValueError(f"a {self.direction} of kind {self.kind} carries no payload")
        return self

    @model_validator(mode="after")
    def _step_leads_to_a_model(self) -> "Header":
        if self.model and not (self.kind in ("train", "evaluate") and self.direction == "request"):
            raise ValueError("model belongs to train and evaluate requests")
        if (self.base or self.best_model) and not self.model:
            raise ValueError("base and best_model go with model")
        return self

    @model_validator(mode="after")
    def _counted_comes_before(self) -> "Header":
        if (self.counted_round == 0) != (self.counted_attempt == 0):
            raise ValueError("counted_round and counted_attempt go together")
        if self.counted_round and not (self.kind in ("train", "evaluate") and self.direction == "request"):
            raise ValueError("counted_round belongs to train and evaluate requests")
        if self.counted_round and self.counted_round > self.round - (self.kind == "train"):
            raise ValueError("counted_round lies before round, or is the round that is evaluated")
        if (self.kept_round == 0) != (self.kept_attempt == 0):
            raise ValueError("kept_round and kept_attempt go together")
        if self.kept_round and self.kind != "train":
            raise ValueError("kept_round belongs to train requests")
        if self.kept_round > self.counted_round:
            raise ValueError("kept_round is counted_round or lies before it")
        return self


def may_carry_payload(header: Header) -> bool:
    """The experiment or a model goes down, and tensors come up with a train reply; nothing else may hold any."""
    return header.direction == "request" or (header.direction == "reply" and header.kind == "train")


def new_nonce() -> str:
    """32 random hexadecimal digits, never drawn from an experiment's seed."""
    return secrets.token_hex(16)


def reply_to(
    request: Header,
    *,
    counts: Mapping[str, int] | None = None,
    scalars: Mapping[str, float | None] | None = None,
) -> Header:
    """The header that answers a request, with figures; a figure that is not finite is given as None.

    Raises ValidationError for a figure out of bounds, which is our own fault and never the other side's.
    """
    return _answer(request, direction="reply", counts=dict(counts or {}), scalars=dict(scalars or {}))


def refusal_to(request: Header, code: RefusalCode) -> Header:
    """The header that refuses a request: the code and nothing else."""
    return _answer(request, direction="refusal", code=code)


def parse_header(data: bytes) -> Header:
    """The header in JSON bytes. Raises WireError (malformed, too_large, wire_version)."""
    if len(data) > HEADER_BYTES_MAX:
        raise WireError(RefusalCode.TOO_LARGE, f"header of {len(data)} bytes, at most {HEADER_BYTES_MAX}")
    if data.count(b'"') > _QUOTES_MAX:
        raise WireError(RefusalCode.MALFORMED, f"header of more than {ENTRIES_MAX} counts or scalars")
    try:
        return Header.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))[:80]
        code = RefusalCode.WIRE_VERSION if where == "wire" else RefusalCode.MALFORMED
        raise WireError(code, f"header {where!r}: {fault['msg'][:200]}") from None


def _answer(request: Header, **fields: object) -> Header:
    """A header that repeats what identifies the request and names its nonce."""
    same = {name: getattr(request, name) for name in _IDENTITY}
    return Header.model_validate({**same, "nonce": new_nonce(), "in_reply_to": request.nonce, **fields})


_IDENTITY = ("wire", "kind", "run", "round", "attempt", "site", "task", "experiment_sha256", "split")
