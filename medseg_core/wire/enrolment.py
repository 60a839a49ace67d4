"""The two documents that make a site part of a federation: its request, and the coordinator's kit.

Both hold public material only and travel as files, by e-mail or on paper. Each side signs what it says with the key
that it says it has; who that is, people confirm to each other by reading fingerprints aloud.
"""

import hashlib
import json
from typing import Annotated, Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg_core.errors import PublicKeyError
from medseg_core.federation_errors import EnrolmentError
from medseg_core.wire.header import Name
from medseg_core.wire.signatures import public_key_of
from medseg_core.wire.versions import SPOKEN, VERSION_MAX

DOCUMENT_BYTES_MAX = 64 * 1024
GATEWAY_NAME = (
    "gateway.medseg.internal"  # in its certificate, whatever address it has: nginx knows names only
)
_Text = Annotated[str, Field(min_length=1, max_length=16 * 1024)]
Address = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}$")]


Version = Annotated[int, Field(ge=1, le=VERSION_MAX)]
Versions = Annotated[tuple[Version, ...], Field(min_length=1, max_length=16)]


class _Signed(BaseModel):
    """A document that its sender signed with `signing_key`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    signing_key: _Text  # of the sender
    signature: str = ""

    def to_json(self) -> bytes:
        """The document as a file."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        document = self.model_dump(mode="json", exclude={"signature"})
        return b"medseg enrolment 1\x00" + json.dumps(document, sort_keys=True).encode()

    def verify(self) -> Ed25519PublicKey:
        """The key that signed the document. Raises EnrolmentError."""
        try:
            key = public_key_of(self.signing_key)
            key.verify(bytes.fromhex(self.signature), self.signed_bytes())
        except (InvalidSignature, ValueError, PublicKeyError):
            raise EnrolmentError("its signature does not fit: it was changed after it was written") from None
        return key


_Document = TypeVar("_Document", bound=_Signed)


class SiteRequest(_Signed):
    """What a hospital sends to take part: a name, and the public halves of its keys."""

    document: Literal["medseg site request"] = "medseg site request"
    wire_versions: Versions = SPOKEN
    site: Name
    node_key: _Text  # EC, OpenSSH: who the node is to Flower
    certificate_request: _Text  # PKCS 10, PEM: for the client certificate of TLS

    @property
    def fingerprint(self) -> str:
        """What the hospital's people and the coordinator's compare: 80 bits over all keys of the site."""
        return fingerprint_of_keys(self.signing_key, self.node_key, self.certificate_request)


class SiteKit(_Signed):
    """What the coordinator sends back: where to connect, whom to obey, and a certificate."""

    document: Literal["medseg site kit"] = "medseg site kit"
    wire_versions: Versions = SPOKEN
    federation: Name
    site: Name
    address: Address  # HOST:PORT of the gateway
    authority: _Text  # certificate of the federation's authority, PEM
    certificate: _Text  # of this site, PEM

    @property
    def fingerprint(self) -> str:
        """What both compare: 80 bits over the coordinator's signing key and its authority; of all sites the same."""
        return short_digest(f"{self.signing_key}\x00{self.authority}".encode())


def sign(document: _Document, key: Ed25519PrivateKey) -> _Document:
    """The document with its signature; `signing_key` is the public half of `key`."""
    return document.model_copy(update={"signature": key.sign(document.signed_bytes()).hex()})


def read_request(data: bytes) -> SiteRequest:
    """The request in a file, its signature checked. Raises EnrolmentError."""
    request = _parse(SiteRequest, data)
    request.verify()
    return request


def read_kit(data: bytes) -> SiteKit:
    """The kit in a file, its signature checked; whose it is, its fingerprint tells. Raises EnrolmentError."""
    kit = _parse(SiteKit, data)
    kit.verify()
    return kit


def fingerprint_of_keys(signing_key: str, node_key: str, certificate_request: str) -> str:
    """80 bits over all keys of a site, as its request states them."""
    return short_digest("\x00".join((signing_key, node_key, certificate_request)).encode())


def short_digest(data: bytes) -> str:
    """80 bits of a SHA-256 in groups of four digits, to be read aloud."""
    digest = hashlib.sha256(data).hexdigest()[:20]
    return "-".join(digest[i : i + 4] for i in range(0, 20, 4))


def _parse(kind: type[_Document], data: bytes) -> _Document:
    """A document of this kind. Raises EnrolmentError."""
    if len(data) > DOCUMENT_BYTES_MAX:
        raise EnrolmentError(f"it has {len(data)} bytes, at most {DOCUMENT_BYTES_MAX} are expected")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))[:80]
        raise EnrolmentError(f"{where or 'it'}: {fault['msg'][:200]}") from None
