"""A hospital becomes part of a federation: its keys, its request, the kit that it accepts."""

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from medseg_client.local_certificate import make_local_certificate
from medseg_client.site_folder import SiteFolder, SiteSettings
from medseg_core.federation_errors import (
    EnrolmentError,
    EnrolmentFileError,
    NotJoinedError,
    OccupiedSiteFolderError,
)
from medseg_core.files import write_atomic, write_private
from medseg_core.wire.enrolment import DOCUMENT_BYTES_MAX, SiteKit, SiteRequest, read_kit, sign
from medseg_core.wire.signatures import load_key, make_key, public_text, save_key
from medseg_core.wire.versions import newest_common


def begin(folder: SiteFolder, settings: SiteSettings) -> SiteRequest:
    """A new site in an empty folder: keys that never leave, settings, and the request for the coordinator.

    Raises OccupiedSiteFolderError.
    """
    if folder.root.exists() and any(folder.root.iterdir()):
        raise OccupiedSiteFolderError(folder.root)
    save_key(folder.key("signing"), make_key())
    node_key, tls_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    none = serialization.NoEncryption()
    pem, openssh, pkcs8 = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.PrivateFormat.PKCS8,
    )
    write_private(folder.key("node"), node_key.private_bytes(pem, openssh, none))
    write_private(folder.key("tls"), tls_key.private_bytes(pem, pkcs8, none))
    write_atomic(folder.root / "site.toml", settings.to_toml().encode())
    request = _request(settings.name, folder, node_key, tls_key)
    write_atomic(folder.request, request.to_json())
    return request


def read_kit_file(path: Path) -> SiteKit:
    """A coordinator's kit. Raises EnrolmentFileError."""
    try:
        with path.open("rb") as file:
            return read_kit(file.read(DOCUMENT_BYTES_MAX + 1))
    except OSError as error:
        raise EnrolmentFileError(path, error.strerror or "cannot be read", "Name the kit's file") from None
    except EnrolmentError as error:
        raise EnrolmentFileError(path, error.fault, "Ask the coordinator for the kit again") from None


def is_of_our_federation(folder: SiteFolder, kit: SiteKit) -> bool:
    """Whether the kit is from the coordinator that this site joined already: a renewal, nothing to compare."""
    try:
        return folder.kit.fingerprint == kit.fingerprint
    except (NotJoinedError, EnrolmentError):
        return False


def accept(folder: SiteFolder, kit: SiteKit) -> None:
    """Take the kit: from now on this site obeys its coordinator. A running way out sees it, and uses it at once.

    Raises EnrolmentError: it is for somebody else. WireVersionsError: the coordinator speaks none of our wire versions.
    """
    newest_common(kit.wire_versions, us=folder.settings.name, them="the coordinator")
    if kit.site != folder.settings.name:
        raise EnrolmentError(f"the kit is for site {kit.site}, and this is {folder.settings.name}")
    try:
        certificate = x509.load_pem_x509_certificate(kit.certificate.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(kit.authority.encode()))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise EnrolmentError(
            "the kit's certificates cannot be read. Ask the coordinator for a new kit"
        ) from None
    ours = serialization.load_pem_private_key(folder.key("tls").read_bytes(), None)
    if certificate.public_key() != ours.public_key():
        raise EnrolmentError(
            "the kit's certificate is for another key. Send the newest request to the coordinator"
        )
    write_atomic(folder.root / "pki" / "authority.crt", kit.authority.encode())
    write_atomic(folder.root / "pki" / "site.crt", kit.certificate.encode())
    write_atomic(folder.kit_file, kit.to_json())
    make_local_certificate(folder)


def _request(
    name: str, folder: SiteFolder, node_key: ec.EllipticCurvePrivateKey, tls_key: ec.EllipticCurvePrivateKey
) -> SiteRequest:
    """The public halves of a site's keys, signed."""
    signing_key = load_key(folder.key("signing"))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(tls_key, hashes.SHA384())
    public = node_key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    request = SiteRequest(
        signing_key=public_text(signing_key.public_key()),
        site=name,
        node_key=public.decode(),
        certificate_request=csr.public_bytes(serialization.Encoding.PEM).decode(),
    )
    return sign(request, signing_key)
