"""Requests sealed for each site, replies checked before anybody believes them."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medseg_core.errors import WireError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, seal, verify
from medseg_core.wire.header import HEADER_BYTES_MAX, Header
from medseg_server.transport import Transport

_REPEATED = ("kind", "run", "round", "attempt", "site", "task", "experiment_sha256", "split")


@dataclass(frozen=True)
class Coordinator:
    """Who asks, and whose replies count: one public key a site."""

    key: Ed25519PrivateKey
    roster: Mapping[str, Ed25519PublicKey]


@dataclass(frozen=True)
class Answer:
    """One site's answer: a verified reply, or the reason for its absence."""

    site: str
    reply: Envelope | None
    reason: str
    seconds: float  # since the request was sent
    bytes_down: int
    bytes_up: int


def ask(
    coordinator: Coordinator,
    transport: Transport,
    headers: Mapping[str, Header],
    payload: bytes,
    *,
    deadline_s: float,
) -> Iterator[Answer]:
    """Send each site its header with the same payload; yield one answer a site, in order of arrival.

    A second delivery of the same site is passed over. A site that the transport says nothing of is absent:
    `deadline`.
    """
    requests = {site: seal(header, payload, coordinator.key) for site, header in headers.items()}
    sent = {site: envelope.to_bytes() for site, envelope in requests.items()}
    began, waiting = time.perf_counter(), set(sent)
    for delivery in transport.exchange(sent, deadline_s):
        if delivery.site not in waiting:
            continue
        waiting.remove(delivery.site)
        reply, reason = None, delivery.absence
        if delivery.envelope is not None:
            try:
                reply = _checked(
                    delivery.envelope,
                    requests[delivery.site],
                    coordinator.roster[delivery.site],
                )
            except WireError as error:
                reason = str(error.code)
        yield Answer(
            site=delivery.site,
            reply=reply,
            reason=reason,
            seconds=time.perf_counter() - began,
            bytes_down=len(sent[delivery.site]),
            bytes_up=len(delivery.envelope or b""),
        )
    for site in sorted(waiting):
        yield Answer(site, None, str(RefusalCode.DEADLINE), deadline_s, len(sent[site]), 0)


def _checked(data: bytes, request: Envelope, key: Ed25519PublicKey) -> Envelope:
    """The reply to this very request, signed by the site that was asked. Raises WireError; a refusal by its code."""
    largest = 2 * len(request.payload) + HEADER_BYTES_MAX + 1024  # an update is as large as the model
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
    if got.code is not None:
        raise WireError(got.code, f"site {got.site} refused")
    return reply
