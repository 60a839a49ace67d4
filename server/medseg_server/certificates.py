"""The federation's certificate authority: certificates for the gateway and for sites, and the list of revoked ones."""

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medseg_core.federation_errors import EnrolmentError

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
REVOCATIONS_DAYS = 30  # a list older than that lets nobody in: `up` renews it
_BEFORE = dt.timedelta(minutes=5)  # for clocks that are behind ours


@dataclass(frozen=True)
class Authority:
    """A certificate and the key that signs with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key on P-384, which Flower, nginx and every TLS library know."""
    return ec.generate_private_key(ec.SECP384R1())


def make_authority(federation: str) -> Authority:
    """A new authority."""
    key, name = new_key(), _name(f"{federation} authority")
    builder = _builder(name, name, key.public_key(), key.public_key(), days=AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Authority(builder.add_extension(_usage(signs=True), critical=True).sign(key, hashes.SHA384()), key)


def server_certificate(
    authority: Authority, key: ec.EllipticCurvePublicKey, hosts: Iterable[str]
) -> x509.Certificate:
    """A certificate for a server that is reached under `hosts`, names or addresses."""
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    builder = _leaf(authority, "gateway", key, ExtendedKeyUsageOID.SERVER_AUTH)
    return builder.add_extension(names, critical=False).sign(authority.key, hashes.SHA384())


def site_certificate(authority: Authority, site: str, request_pem: str) -> x509.Certificate:
    """A client certificate for the key in a request; nothing but the key is taken from it.

    Raises EnrolmentError: the request is not one, or not signed by its key.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        is_signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, InvalidSignature, TypeError, UnsupportedAlgorithm):
        raise EnrolmentError("its certificate request cannot be read") from None
    if not is_signed or not isinstance(key, ec.EllipticCurvePublicKey):
        raise EnrolmentError("its certificate request is not signed by an EC key of its own")
    return _leaf(authority, site, key, ExtendedKeyUsageOID.CLIENT_AUTH).sign(authority.key, hashes.SHA384())


def revocations(authority: Authority, serials: Iterable[int]) -> bytes:
    """The list of revoked certificates, PEM; valid for REVOCATIONS_DAYS."""
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - _BEFORE)
        .next_update(now + dt.timedelta(days=REVOCATIONS_DAYS))
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _BEFORE)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(authority.key, hashes.SHA384()).public_bytes(Encoding.PEM)


def _leaf(
    authority: Authority, name: str, key: ec.EllipticCurvePublicKey, purpose: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    """A certificate that signs no others."""
    subject, issuer = _name(name), authority.certificate.subject
    builder = _builder(subject, issuer, key, authority.key.public_key(), days=CERTIFICATE_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    return builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    *,
    days: int,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "medseg")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    """A host as certificates name it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)
