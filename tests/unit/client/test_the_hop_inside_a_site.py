"""The certificate for the hop from relay to way out, and who may use the trainer's socket."""

import ipaddress
import os
import stat
from pathlib import Path

import pytest
from builders import make_experiment, make_site_data, make_trainer
from cryptography import x509
from enrolment import make_site

from medseg_client.local_certificate import make_local_certificate, require_local_certificate
from medseg_client.site_folder import SiteFolder
from medseg_client.trainer_service import serving
from medseg_core.errors import ExperimentFileError
from medseg_core.federation_errors import LocalCertificateError


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return make_site(tmp_path / "north")[0]


def call_the_way_out(site: SiteFolder, host: str, key: str = "egress_host") -> None:
    path = site.root / "site.toml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} =")]
    at = next(number for number, line in enumerate(lines) if line.startswith("[policy]"))
    path.write_text("\n".join((*lines[:at], f'{key} = "{host}"', *lines[at:])) + "\n")


def names_in(certificate: Path) -> list[object]:
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [name.value for name in names]


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("egress", "egress"),
        ("10.0.0.7", ipaddress.ip_address("10.0.0.7")),
        ("fd00::7", ipaddress.ip_address("fd00::7")),
    ],
)
def test_the_certificate_names_what_the_relay_calls_the_way_out(
    site: SiteFolder, host: str, named: object
) -> None:
    call_the_way_out(site, host)
    make_local_certificate(site)
    assert names_in(require_local_certificate(site)) == [
        ipaddress.ip_address("127.0.0.1"),
        "localhost",
        named,
    ]
    assert stat.S_IMODE(site.local_key.stat().st_mode) == 0o600


def test_a_certificate_that_fits_stays_and_one_that_does_not_is_made_anew(site: SiteFolder) -> None:
    make_local_certificate(site)
    first = site.local_certificate.read_bytes()
    make_local_certificate(site)
    assert site.local_certificate.read_bytes() == first

    call_the_way_out(site, "egress")
    with pytest.raises(LocalCertificateError, match="made anew by `medseg-site join"):
        require_local_certificate(site)
    make_local_certificate(site)
    assert "egress" in names_in(require_local_certificate(site))

    site.local_key.write_bytes(b"another")
    made = site.local_certificate.read_bytes()
    make_local_certificate(site)
    assert site.local_certificate.read_bytes() != made


@pytest.mark.parametrize("host", ["", "a b", "egress:443", "-x", "[::1]", 'x"; include /etc/passwd'])
@pytest.mark.parametrize("key", ["egress_host", "egress_listen"])
def test_what_is_no_address_is_refused(site: SiteFolder, key: str, host: str) -> None:
    path = site.root / "site.toml"
    path.write_text(path.read_text().replace(f'{key} = "127.0.0.1"', f"{key} = '{host}'"))
    with pytest.raises(ExperimentFileError, match=key):
        _ = site.settings


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives folders away")
def test_the_socket_can_be_used_by_the_group_of_its_folder_and_nobody_else(tmp_path: Path) -> None:
    folder, group = tmp_path / "socket", 54321
    folder.mkdir()
    os.chown(folder, -1, group)
    experiment = make_experiment()
    with serving(make_trainer(tmp_path / "state", experiment, make_site_data()), folder / "t.sock"):
        entry, socket = folder.stat(), (folder / "t.sock").stat()
    assert (stat.S_IMODE(entry.st_mode), entry.st_gid) == (0o2750, group)
    assert (stat.S_IMODE(socket.st_mode), socket.st_gid) == (0o660, group)
