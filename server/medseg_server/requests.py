"""Requests sealed for each site, replies checked before anybody believes them."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medseg_core.errors import WireError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, seal, verify
from medseg_core.wire.header import HEADER_BYTES_MAX, Header
from medseg_core.wire.signatures import fingerprint
from medseg_server.transport import Outbox, Transport

_REPEATED = ("kind", "run", "round", "attempt", "site", "task", "experiment_sha256", "split")


@dataclass(frozen=True)
class Coordinator:
    """Who asks, and whose replies count: one public key a site, and the wire version to use with it if not ours."""

    key: Ed25519PrivateKey
    roster: Mapping[str, Ed25519PublicKey]
    versions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LedgerHead:
    """The line of a site's ledger under which an answer left, a refusal too."""

    site: str
    sequence: int
    sha256: str
    signed_by: str  # fingerprint of the site's signing key: with new keys a site begins a new ledger


@dataclass(frozen=True)
class Answer:
    """One site's answer: a verified reply, or the reason for its absence."""

    site: str
    reply: Envelope | None
    reason: str
    seconds: float  # since the request was sent
    bytes_down: int
    bytes_up: int
    ledger: LedgerHead | None = None  # of a reply or refusal; None for a site that keeps no ledger


def ask(
    coordinator: Coordinator,
    transport: Transport,
    headers: Mapping[str, Header],
    payloads: Mapping[str, bytes],
    *,
    deadline_s: float,
    model_bytes: int = 0,
    instead: Callable[[Answer], tuple[Header, bytes] | None] = lambda refusal: None,
) -> Iterator[Answer]:
    """Send each site its header and payload; yield one answer a site, in order of arrival.

    A reply is at most twice as large as what was sent or as the model, of `model_bytes`, that this stands for.

    What is delivered under a site's name and is not its answer to this request (forged, damaged, late, repeated) does
    not keep the answer out: it is the reason for the site's absence if no answer follows. A site that the transport
    says nothing of is absent: `deadline`; one without a key in the roster is sent nothing: `not_enrolled`. To a refusal
    the caller may give another request to send `instead`: the site is asked that at once, and answers once.
    """
    sent = {s: seal(h, payloads[s], coordinator.key) for s, h in headers.items() if s in coordinator.roster}
    waiting = {site: Answer(site, None, "not_enrolled", 0.0, 0, 0) for site in headers}
    for site, request in sent.items():
        waiting[site] = Answer(site, None, str(RefusalCode.DEADLINE), deadline_s, request.n_bytes, 0)
    began = time.perf_counter()
    outbox = Outbox(sent)
    for delivery in transport.exchange(outbox, deadline_s):
        if delivery.site not in waiting or delivery.site not in sent:
            continue
        seconds, so_far = time.perf_counter() - began, waiting[delivery.site]
        if delivery.envelope is None:
            reason = delivery.absence if so_far.bytes_up == 0 else so_far.reason
            waiting[delivery.site] = replace(so_far, reason=reason, seconds=seconds)
            continue
        answer = replace(so_far, seconds=seconds, bytes_up=so_far.bytes_up + len(delivery.envelope))
        try:
            request, key = sent[delivery.site], coordinator.roster[delivery.site]
            reply = _checked(delivery.envelope, request, key, max(model_bytes, len(request.payload)))
        except WireError as error:
            waiting[delivery.site] = replace(answer, reason=str(error.code))
            continue
        code = reply.header.code
        ledger = _ledger_head(reply.header, coordinator.roster[delivery.site])
        answer = replace(answer, reply=None if code else reply, reason=str(code or ""), ledger=ledger)
        if code and (other := instead(answer)) is not None:
            sent[answer.site] = seal(*other, coordinator.key)
            outbox.put(answer.site, sent[answer.site])
            n_bytes = answer.bytes_down + sent[answer.site].n_bytes
            waiting[answer.site] = replace(
                answer, reason=str(RefusalCode.DEADLINE), seconds=deadline_s, bytes_down=n_bytes
            )
            continue
        del waiting[delivery.site]
        yield answer
        del delivery, answer, reply  # before the next is fetched: one update in memory at a time
    yield from (waiting[site] for site in sorted(waiting))


def _ledger_head(answer: Header, key: Ed25519PublicKey) -> LedgerHead | None:
    """Where a verified answer says that it stands in the site's ledger."""
    if answer.ledger_head is None or answer.ledger_sequence is None:
        return None
    return LedgerHead(answer.site, answer.ledger_sequence, answer.ledger_head, fingerprint(key))


def _checked(data: bytes, request: Envelope, key: Ed25519PublicKey, model_bytes: int) -> Envelope:
    """The reply or refusal to this very request, signed by the site that was asked. Raises WireError."""
    largest = 2 * model_bytes + HEADER_BYTES_MAX + 1024  # an update is as large as the model
    reply = Envelope.from_bytes(data, max_bytes=largest)
    verify(reply, key)
    asked, got = request.header, reply.header
    for name in _REPEATED:
        if getattr(asked, name) != getattr(got, name):
            code = {"site": RefusalCode.FOREIGN_SITE, "run": RefusalCode.UNKNOWN_RUN}.get(
                name, RefusalCode.STALE_ROUND
            )
            raise WireError(code, f"{name} is {getattr(got, name)!r}, asked was {getattr(asked, name)!r}")
    if got.in_reply_to != asked.nonce:
        raise WireError(RefusalCode.REPEATED, "answers another request")
    return reply
