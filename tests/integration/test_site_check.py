"""`medseg-site check`: what it says of images, machine and way out, and what the report that is shared holds."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from enrolment import make_server, make_site
from experiments import TINY
from real_gateway import Federation, running_gateway, wait_for

from medseg_client import gateway_check, machine_check
from medseg_client.findings import Finding
from medseg_client.gateway_check import check_gateway
from medseg_client.joining import accept
from medseg_client.machine_check import DISK_GOOD, check_data, check_machine
from medseg_client.site_folder import SiteFolder
from medseg_core.supervision import free_ports, program
from medseg_server import certificates
from medseg_server.enrolling import enrol
from medseg_server.membership import revoke
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="hospitals run on Linux"),
]
PATIENT = "Mustermann"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with running_gateway(tmp_path_factory.mktemp("check")) as federation:
        yield federation


@pytest.fixture(scope="module")
def north(federation: Federation) -> SiteFolder:
    """A site with sound images that the gateway knows."""
    caller = federation.caller("north")
    federation.let_in()
    wait_for(caller, 200)
    site = SiteFolder(federation.folder / "north")
    settings = (site.root / "site.toml").read_text().replace("/images", str(federation.folder / "images"))
    settings = re.sub(r"(min_patients_\w+) = 5", r"\1 = 1", settings)  # there are four phantoms
    (site.root / "site.toml").write_text(settings)
    (federation.folder / "tiny.toml").write_text(TINY)
    write_phantoms(
        federation.folder / "images", PhantomSettings(sites=1, cases=4, spatial_dims=2, voxel_mm=4.0)
    )
    return site


def check(site: SiteFolder, *words: str) -> subprocess.CompletedProcess[str]:
    command = [program("medseg-site"), "check", str(site.root), *words]
    return subprocess.run(command, text=True, capture_output=True, timeout=120)


def found(site: SiteFolder) -> dict[str, Finding]:
    return {finding.topic: finding for finding in check_gateway(site)}


def fault_of(site: SiteFolder) -> Finding:
    (finding,) = [f for f in check_gateway(site) if f.state == "fault"]
    assert finding.remedy
    return finding


def test_a_site_that_is_fit_is_told_so(federation: Federation, north: SiteFolder) -> None:
    done = check(north, "--experiment", str(federation.folder / "tiny.toml"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line[9:].split(":")[0]: line for line in done.stdout.splitlines()}
    topics = (
        "data for tiny",
        "rules for tiny",
        "memory",
        "name",
        "own certificate",
        "gateway's certificate",
        "clock",
    )
    for topic in (*topics, "registration"):
        assert lines[topic].startswith("ok"), lines
    has_room = psutil.disk_usage(str(north.root)).free >= DISK_GOOD  # of whoever runs this test
    assert lines["disk"].startswith("ok" if has_room else "warning"), lines
    assert "weaker" in lines["separation of trainer and relay"]


def test_what_is_shared_names_no_case_no_patient_and_no_path(
    federation: Federation, north: SiteFolder, tmp_path: Path
) -> None:
    root, report = tmp_path / "site", tmp_path / "report.json"
    images = tmp_path / "images"
    shutil.copytree(north.root, root)
    shutil.copytree(federation.folder / "images", images)
    with (images / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["case_id"] = row["patient_id"] = f"{PATIENT}-{number}"
    (images / rows[0]["image"]).write_bytes(b"no image")
    rows[1]["label"] = f"{PATIENT}.nii.gz"
    with (images / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    text = (root / "site.toml").read_text().replace(str(federation.folder / "images"), str(images))
    (root / "site.toml").write_text(text)

    words = ("--experiment", str(federation.folder / "tiny.toml"), "--share", str(report))
    done = check(SiteFolder(root), *words)

    assert done.returncode == 1
    assert f"{PATIENT}-0" in done.stdout
    assert f"{PATIENT}-1" in done.stdout
    shared = json.loads(report.read_text())
    assert not shared["is_fit"]
    (data,) = [f for f in shared["findings"] if f["topic"] == "data for tiny"]
    assert "2 of 4 cases have faults" in data["text"]
    for secret in (PATIENT, str(tmp_path), str(federation.folder), "nii"):
        assert secret not in report.read_text()
    assert json.loads(check(SiteFolder(root), *words[:2], "--json").stdout)["is_fit"] is False


def test_a_list_of_cases_that_is_absent_or_too_short_is_a_fault(
    federation: Federation, north: SiteFolder, tmp_path: Path
) -> None:
    root = tmp_path / "site"
    shutil.copytree(north.root, root)
    text = (root / "site.toml").read_text()
    images = str(federation.folder / "images")
    (root / "site.toml").write_text(text.replace(images, str(tmp_path / "nowhere")))
    _, finding = check_data(SiteFolder(root), [])
    assert (finding.state, finding.text) == ("fault", "the list of cases cannot be used")
    assert "nowhere" in finding.detail
    assert "nowhere" not in finding.text + finding.remedy

    lines = (federation.folder / "images/manifest.csv").read_text().splitlines()[:3]
    (federation.folder / "images/two.csv").write_text("\n".join(lines) + "\n")
    (root / "site.toml").write_text(text.replace(images, f"{images}/two.csv"))
    _, finding = check_data(SiteFolder(root), [])
    assert "too few patients" in finding.text


def test_a_device_that_is_not_there_is_a_fault(north: SiteFolder, tmp_path: Path) -> None:
    root = tmp_path / "site"
    shutil.copytree(north.root, root)
    text = (root / "site.toml").read_text().replace('device = "auto"', 'device = "cuda:99"')
    (root / "site.toml").write_text(text)
    findings = {finding.topic: finding for finding in check_machine(SiteFolder(root))}
    assert findings["device"].state == "fault"
    assert "site.toml" in findings["device"].remedy


def test_too_little_disk_or_memory_is_a_fault(north: SiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_check, "DISK_LEAST", 1 << 60)
    monkeypatch.setattr(machine_check, "MEMORY_LEAST", 1 << 60)
    states = {finding.topic: finding.state for finding in check_machine(north)}
    assert (states["disk"], states["memory"]) == ("fault", "fault")


def test_a_site_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    site, _ = make_site(tmp_path / "alone")
    assert "medseg-site join" in fault_of(site).remedy


def joined(tmp_path: Path, *, address: str) -> SiteFolder:
    """A site of a federation of its own at `address`."""
    site, request = make_site(tmp_path / "site")
    accept(site, enrol(make_server(tmp_path / "elsewhere", address=address), request))
    return site


def test_a_name_that_cannot_be_resolved_ends_the_way(tmp_path: Path) -> None:
    site = joined(tmp_path, address="gateway.invalid:8443")
    assert fault_of(site).text == "gateway.invalid cannot be resolved"


def test_a_port_where_nobody_listens_is_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    finding = fault_of(joined(tmp_path, address=address))
    assert finding.topic == "way"
    assert address in finding.text
    assert "firewall" in finding.remedy


def test_somebody_in_between_who_opens_tls_is_found_out(federation: Federation, tmp_path: Path) -> None:
    finding = fault_of(joined(tmp_path, address=f"127.0.0.1:{federation.port}"))
    assert finding.topic == "TLS"
    assert "exempt" in finding.remedy


def test_a_site_that_was_revoked_or_has_other_keys_is_told_apart(
    federation: Federation, north: SiteFolder, tmp_path: Path
) -> None:
    gone = federation.caller("gone")
    federation.let_in()
    wait_for(gone, 200)
    revoke(federation.server, "gone")
    wait_for(gone, 401)
    assert "revoked" in fault_of(SiteFolder(federation.folder / "gone")).text

    root = tmp_path / "mixed"
    shutil.copytree(north.root, root)
    other, _ = make_site(tmp_path / "other", "north")
    shutil.copy(other.key("node"), root / "keys/node.key")
    assert "does not know this node key" in fault_of(SiteFolder(root)).text


def test_a_superlink_that_is_away_is_the_coordinators_to_mend(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as federation:
        federation.caller("north")
        federation.superlink.shutdown()
        federation.superlink.server_close()
        finding = fault_of(SiteFolder(tmp_path / "north"))
    assert (finding.topic, "superlink" in finding.text) == ("registration", True)


def test_certificates_that_expire_within_thirty_days_are_a_warning(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(certificates, "CERTIFICATE_DAYS", 20)
        federation.caller("short")
    federation.let_in()
    finding = found(SiteFolder(federation.folder / "short"))["own certificate"]
    assert finding.state == "warning"
    assert "medseg-server renew DIR short" in finding.remedy


@pytest.mark.parametrize(
    ("ahead_s", "state"), [(60, "fault"), (4, "warning"), (-60, "warning"), (-400, "fault")]
)
def test_a_clock_that_is_wrong_is_found(
    north: SiteFolder, monkeypatch: pytest.MonkeyPatch, ahead_s: int, state: str
) -> None:
    class Clock:
        @staticmethod
        def time() -> float:
            return time.time() + ahead_s

    monkeypatch.setattr(gateway_check, "time", Clock)
    finding = found(north)["clock"]
    assert finding.state == state
    assert ("ahead" if ahead_s > 0 else "behind") in finding.text


def test_a_machine_that_is_set_up_for_a_proxy_is_told_that_it_is_not_used(
    north: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    finding = found(north)["proxy"]
    assert finding.state == "warning"
    assert "secret" not in finding.text + finding.remedy
