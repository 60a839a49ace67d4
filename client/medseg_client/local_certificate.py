"""The certificate for the hop from relay to way out: Flower refuses to send its node key without TLS."""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from medseg_client.site_folder import SiteFolder
from medseg_core.federation_errors import LocalCertificateError
from medseg_core.files import write_atomic, write_private

LASTS_DAYS = 3650
_LOOPBACK = ("127.0.0.1", "localhost")


def make_local_certificate(folder: SiteFolder) -> None:
    """Certificate and key, unless those that are there fit. Raises UnusableFolderError."""
    host, key_file = folder.settings.egress_host, folder.local_key
    if _names(folder.local_certificate, host) and _is_pair(folder.local_certificate, key_file):
        return
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "medseg egress")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([_general_name(text) for text in dict.fromkeys((*_LOOPBACK, host))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=LASTS_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    key_file.unlink(missing_ok=True)
    write_private(
        key_file,
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    write_atomic(folder.local_certificate, made.public_bytes(pem))


def require_local_certificate(folder: SiteFolder) -> Path:
    """The certificate, which names what the relay calls the way out. Raises LocalCertificateError."""
    host = folder.settings.egress_host
    if not _names(folder.local_certificate, host):
        raise LocalCertificateError(folder.local_certificate, host)
    return folder.local_certificate.absolute()


def _names(certificate: Path, host: str) -> bool:
    """Whether a certificate is there and is for a host."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return _general_name(host) in list(names)


def _is_pair(certificate: Path, key_file: Path) -> bool:
    """Whether the key is the certificate's."""
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        return x509.load_pem_x509_certificate(certificate.read_bytes()).public_key() == key.public_key()
    except (OSError, ValueError):
        return False


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
