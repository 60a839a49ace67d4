"""A federation begins, and sites become part of it: keys, certificates, roster, kits."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from medseg_core.federation_errors import EnrolmentError, EnrolmentFileError, OccupiedServerFolderError
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
from medseg_core.wire.versions import newest_common
from medseg_server.certificates import (
    Authority,
    make_authority,
    new_key,
    revocations,
    server_certificate,
    site_certificate,
)
from medseg_server.server_folder import LOOPBACK, Certificate, Enrolled, ServerFolder, ServerSettings


def begin(folder: ServerFolder, settings: ServerSettings) -> None:
    """A new federation in an empty folder. Raises OccupiedServerFolderError."""
    if any(
        not path.is_dir() for path in folder.root.rglob("*")
    ):  # empty folders may be there: mounted volumes
        raise OccupiedServerFolderError(folder.root)
    authority = make_authority(settings.name)
    save_key(folder.signing_key, make_key())
    _write_key(folder.authority("key"), authority.key)
    write_atomic(folder.authority("crt"), _pem(authority.certificate))
    write_atomic(folder.revocations, revocations(authority, []))
    for name in ("gateway", "superlink"):
        _write_key(folder.server(name, "key"), new_key())
    folder.write_roster({})
    document = settings.model_dump(mode="json", exclude_none=True)
    certify_servers(folder, settings)
    # last: it makes the folder one
    write_atomic(folder.root / "server.toml", tomli_w.dumps(document).encode())


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
    """Put a site into the roster and make its kit.

    With new keys every certificate that the site had before is revoked; with the same keys they stay valid.
    Raises EnrolmentError: a key in the request is of no use. WireVersionsError: it speaks none of our wire versions.
    """
    newest_common(request.wire_versions, us="the coordinator", them=request.site)
    _check_node_key(request.node_key)
    with folder.changing_roster() as roster:
        _require_fresh_node_key(request, roster)
        before = roster.get(request.site)
        is_same = before is not None and before.fingerprint == request.fingerprint
        entry = Enrolled(
            site=request.site,
            signing_key=request.signing_key,
            node_key=request.node_key,
            certificate_request=request.certificate_request,
            wire_versions=request.wire_versions,
            certificates=() if before is None else before.certificates if is_same else before.all_revoked,
            retired_node_keys=() if before is None else _retired(before, request.node_key),
            enrolled_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        kit, roster[entry.site] = certify(folder, entry)
    write_atomic(
        folder.kit(entry.site), kit.to_json()
    )  # after the roster: no certificate is out that it lacks
    return kit


def certify(folder: ServerFolder, entry: Enrolled) -> tuple[SiteKit, Enrolled]:
    """A further certificate for the keys of a site: the kit with it, and the site's line of the roster.

    Raises EnrolmentError: the certificate request is of no use.
    """
    settings, authority = folder.settings, open_authority(folder)
    certificate = site_certificate(authority, entry.site, entry.certificate_request)
    signing_key = load_key(folder.signing_key)
    kit = SiteKit(
        signing_key=public_text(signing_key.public_key()),
        federation=settings.name,
        site=entry.site,
        address=settings.address,
        authority=_pem(authority.certificate).decode(),
        certificate=_pem(certificate).decode(),
    )
    given = Certificate(serial=str(certificate.serial_number), expires_at=expiry(certificate))
    return sign(kit, signing_key), entry.model_copy(update={"certificates": (*entry.certificates, given)})


def certify_servers(folder: ServerFolder, settings: ServerSettings) -> dict[str, str]:
    """New certificates for the keys of gateway and superlink: when each expires."""
    authority, host = open_authority(folder), settings.address.rsplit(":", 1)[0]
    called = {"gateway": (GATEWAY_NAME, host), "superlink": sorted({*LOOPBACK, settings.superlink_host})}
    expiries = {}
    for name, hosts in called.items():
        certificate = server_certificate(authority, _read_key(folder.server(name, "key")).public_key(), hosts)
        write_atomic(folder.server(name, "crt"), _pem(certificate))
        expiries[name] = expiry(certificate)
    return expiries


def expiry(certificate: x509.Certificate) -> str:
    """When a certificate expires, ISO 8601."""
    return certificate.not_valid_after_utc.isoformat(timespec="seconds")


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
    certificate = x509.load_pem_x509_certificate(folder.authority("crt").read_bytes())
    return Authority(certificate, _read_key(folder.authority("key")))


def _retired(before: Enrolled, node_key: str) -> tuple[str, ...]:
    """The node keys of a site that are of no use any more, once it has `node_key`."""
    return tuple(key for key in (*before.retired_node_keys, before.node_key) if key != node_key)


def _require_fresh_node_key(request: SiteRequest, roster: Mapping[str, Enrolled]) -> None:
    """No other site has the request's node key, and none was ever shut out with it. Raises EnrolmentError."""
    for entry in roster.values():
        shut_out = (*entry.retired_node_keys, *([entry.node_key] if entry.status == "revoked" else []))
        if request.node_key in shut_out:
            raise EnrolmentError(
                f"its node key was shut out with an earlier enrolment of {entry.site}, and Flower never accepts it "
                "again. Ask the hospital for new keys: `medseg-site init` in a new folder"
            )
        if request.node_key == entry.node_key and request.site != entry.site:
            raise EnrolmentError(
                f"its node key is that of {entry.site}. Ask the hospital for keys of this site alone: "
                "`medseg-site init` in a new folder"
            )


def _check_node_key(text: str) -> None:
    """An EC public key in OpenSSH's format and nothing beside it. Raises EnrolmentError."""
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise EnrolmentError("its node key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EnrolmentError("its node key is not an EC key")
    plain = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    if plain.decode() != text:  # one key has one text, by which it is recognised
        raise EnrolmentError("its node key has a comment or blanks beside it")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, pem)
