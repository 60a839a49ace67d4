"""A federation begins, and sites become part of it: keys, certificates, roster, kits."""

import datetime as dt
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from medseg_core.errors import EnrolmentError, EnrolmentFileError, OccupiedServerFolderError
from medseg_core.files import write_atomic, write_private
from medseg_core.wire.enrolment import (
    DOCUMENT_BYTES_MAX,
    GATEWAY_NAME,
    SiteKit,
    SiteRequest,
    read_request,
    sign,
)
from medseg_core.wire.signatures import load_key, make_key, public_text, save_key
from medseg_server.certificates import (
    Authority,
    make_authority,
    new_key,
    revocations,
    server_certificate,
    site_certificate,
)
from medseg_server.server_folder import Enrolled, ServerFolder, ServerSettings

LOOPBACK = ("localhost", "127.0.0.1")


def begin(folder: ServerFolder, settings: ServerSettings) -> None:
    """A new federation in an empty folder. Raises OccupiedServerFolderError."""
    if folder.root.exists() and any(folder.root.iterdir()):
        raise OccupiedServerFolderError(folder.root)
    authority = make_authority(settings.name)
    save_key(folder.signing_key, make_key())
    _write_key(folder.authority("key"), authority.key)
    write_atomic(folder.authority("crt"), _pem(authority.certificate))
    write_atomic(folder.authority("crl"), revocations(authority, []))
    host = settings.address.rsplit(":", 1)[0]
    for name, hosts in (("gateway", (GATEWAY_NAME, host)), ("superlink", LOOPBACK)):
        key = new_key()
        _write_key(folder.server(name, "key"), key)
        write_atomic(folder.server(name, "crt"), _pem(server_certificate(authority, key.public_key(), hosts)))
    folder.write_roster({})
    document = settings.model_dump(mode="json", exclude_none=True)
    write_atomic(
        folder.root / "server.toml", tomli_w.dumps(document).encode()
    )  # last: it makes the folder one


def read_request_file(path: Path) -> SiteRequest:
    """A hospital's request. Raises EnrolmentFileError."""
    try:
        with path.open("rb") as file:
            return read_request(file.read(DOCUMENT_BYTES_MAX + 1))
    except OSError as error:
        raise EnrolmentFileError(
            path, error.strerror or "cannot be read", "Name the request's file"
        ) from None
    except EnrolmentError as error:
        raise EnrolmentFileError(path, error.fault, "Ask the hospital for its S.request.json again") from None


def enrol(folder: ServerFolder, request: SiteRequest) -> SiteKit:
    """Put a site into the roster and make its kit; an earlier enrolment of that name is replaced.

    Raises EnrolmentError: a key in the request is of no use.
    """
    settings, authority = folder.settings, open_authority(folder)
    certificate = site_certificate(authority, request.site, request.certificate_request)
    _check_node_key(request.node_key)
    signing_key = load_key(folder.signing_key)
    kit = SiteKit(
        signing_key=public_text(signing_key.public_key()),
        federation=settings.name,
        site=request.site,
        address=settings.address,
        authority=_pem(authority.certificate).decode(),
        certificate=_pem(certificate).decode(),
    )
    kit = sign(kit, signing_key)
    entry = Enrolled(
        site=request.site,
        signing_key=request.signing_key,
        node_key=request.node_key,
        certificate_serial=str(certificate.serial_number),
        enrolled_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )
    write_atomic(folder.kit(request.site), kit.to_json())
    folder.write_roster({**folder.roster(), request.site: entry})
    return kit


def federation_fingerprint(folder: ServerFolder) -> str:
    """What hospitals compare with their kit."""
    signing_key, settings = load_key(folder.signing_key), folder.settings
    kit = SiteKit(
        signing_key=public_text(signing_key.public_key()),
        federation=settings.name,
        site="any",
        address=settings.address,
        authority=folder.authority("crt").read_text(),
        certificate="-",
    )
    return kit.fingerprint


def open_authority(folder: ServerFolder) -> Authority:
    """The federation's authority."""
    key = serialization.load_pem_private_key(folder.authority("key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Authority(x509.load_pem_x509_certificate(folder.authority("crt").read_bytes()), key)


def _check_node_key(text: str) -> None:
    """An EC public key in OpenSSH's format, on one line. Raises EnrolmentError."""
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise EnrolmentError("its node key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EnrolmentError("its node key is not an EC key")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, pem)
