"""Request and kit: what each side writes, reads and refuses, from an empty folder to a site that is enrolled."""

import contextlib
import json
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from enrolment import make_server, make_site
from hypothesis import given
from hypothesis import strategies as st

from medseg_client.joining import accept, read_kit_file
from medseg_client.site_folder import SiteFolder
from medseg_core.errors import MedsegError
from medseg_core.federation_errors import (
    EnrolmentError,
    EnrolmentFileError,
    NotJoinedError,
    OccupiedServerFolderError,
    OccupiedSiteFolderError,
    RosterError,
    WireVersionsError,
)
from medseg_core.files import write_atomic
from medseg_core.wire import versions
from medseg_core.wire.enrolment import SiteKit, SiteRequest, read_kit, read_request, sign
from medseg_core.wire.signatures import make_key, public_text
from medseg_server.enrolling import enrol, federation_fingerprint, read_request_file
from medseg_server.gateway import write_admission
from medseg_server.server_folder import Enrolled, ServerFolder


def changed(document: SiteRequest | SiteKit, **fields: Any) -> bytes:
    """The document's file after somebody edited it."""
    return json.dumps(json.loads(document.to_json()) | fields).encode()


def test_from_nothing_to_an_enrolled_site(tmp_path: Path) -> None:
    server = make_server(tmp_path / "server")
    site, request = make_site(tmp_path / "site")

    kit = enrol(server, read_request_file(site.request))
    accept(site, read_kit_file(server.kit("north")))

    assert site.kit == kit
    assert kit.fingerprint == federation_fingerprint(server)
    assert kit.signing_key == public_text(server.coordinator().key.public_key())
    entry = server.enrolled()["north"]
    assert (entry.signing_key, entry.node_key) == (request.signing_key, request.node_key)
    certificate = x509.load_pem_x509_certificate(kit.certificate.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(kit.authority.encode()))
    assert [c.serial for c in entry.certificates] == [str(certificate.serial_number)]


def test_a_request_and_a_kit_hold_no_private_key(tmp_path: Path) -> None:
    server = make_server(tmp_path / "server")
    site, request = make_site(tmp_path / "site")
    kit = enrol(server, request)
    assert b"PRIVATE" not in request.to_json() + kit.to_json()
    assert b"PRIVATE" in site.key("tls").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    server = make_server(tmp_path / "server")
    site, _ = make_site(tmp_path / "site")
    keys = [*tmp_path.rglob("*.key")]
    assert {server.signing_key, server.authority("key"), site.key("node"), site.key("tls")} <= set(keys)
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_a_folder_in_use_is_never_overwritten(tmp_path: Path) -> None:
    make_server(tmp_path / "server")
    make_site(tmp_path / "site")
    with pytest.raises(OccupiedServerFolderError, match="Choose a new folder"):
        make_server(tmp_path / "server")
    with pytest.raises(OccupiedSiteFolderError, match="Choose a new folder"):
        make_site(tmp_path / "site")


def test_a_site_that_has_not_joined_says_how(tmp_path: Path) -> None:
    site, _ = make_site(tmp_path / "site")
    with pytest.raises(NotJoinedError, match="medseg-site join"):
        _ = site.kit


def test_sides_without_a_common_wire_version_say_who_has_to_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server(tmp_path / "server")
    site, request = make_site(tmp_path / "north")
    kit = enrol(server, request)
    monkeypatch.setattr(versions, "SPOKEN", (2, 3))
    with pytest.raises(WireVersionsError, match=r"north 1\. Upgrade medseg at north"):
        enrol(server, request)
    with pytest.raises(WireVersionsError, match=r"the coordinator 1\. Upgrade medseg at the coordinator"):
        accept(site, kit)
    assert not site.kit_file.exists()


def test_one_site_that_fell_behind_keeps_no_run_from_the_others(tmp_path: Path) -> None:
    server = make_server(tmp_path / "server")
    for name in ("north", "south"):
        enrol(server, make_site(tmp_path / name, name)[1])
    with server.changing_roster() as roster:
        roster["south"] = roster["south"].model_copy(update={"wire_versions": (7,)})
    assert server.coordinator().versions == {"north": versions.WIRE_VERSION}
    assert set(server.coordinator().roster) == {"north", "south"}


def test_a_kit_for_another_site_or_of_older_keys_is_refused(tmp_path: Path) -> None:
    server = make_server(tmp_path / "server")
    _, request = make_site(tmp_path / "north")
    other, _ = make_site(tmp_path / "south", "south")
    with pytest.raises(EnrolmentError, match="for site north, and this is south"):
        accept(other, enrol(server, request))
    renewed, _ = make_site(tmp_path / "renewed")
    with pytest.raises(EnrolmentError, match="Send the newest request"):
        accept(renewed, enrol(server, request))


@pytest.mark.parametrize(
    "change",
    [{"site": "south"}, {"node_key": "ssh-rsa AAAA"}, {"signing_key": public_text(make_key().public_key())}],
)
def test_a_request_that_somebody_changed_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    _, request = make_site(tmp_path)
    with pytest.raises(EnrolmentError, match="changed after it was written"):
        read_request(changed(request, **change))


def test_a_kit_that_somebody_changed_is_refused(tmp_path: Path) -> None:
    kit = enrol(make_server(tmp_path / "server"), make_site(tmp_path / "site")[1])
    with pytest.raises(EnrolmentError, match="changed after it was written"):
        read_kit(changed(kit, address="evil.example.org:8443"))


def test_a_forger_who_signs_anew_has_another_fingerprint(tmp_path: Path) -> None:
    kit = enrol(make_server(tmp_path / "server"), make_site(tmp_path / "site")[1])
    forger = make_key()
    forged = sign(kit.model_copy(update={"signing_key": public_text(forger.public_key())}), forger)
    assert read_kit(forged.to_json()).fingerprint != kit.fingerprint


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"node_key": "ecdsa nonsense"}, "node key cannot be read"),
        ({"certificate_request": "-----BEGIN"}, "certificate request cannot be read"),
    ],
)
def test_keys_of_no_use_are_refused_though_they_are_signed(
    tmp_path: Path, fields: dict[str, str], fault: str
) -> None:
    key = make_key()
    _, request = make_site(tmp_path / "site")
    own = sign(request.model_copy(update={**fields, "signing_key": public_text(key.public_key())}), key)
    server = make_server(tmp_path / "server")
    with pytest.raises(EnrolmentError, match=fault):
        enrol(server, own)
    assert not server.roster()


def test_a_file_that_is_no_request_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "letter.json").write_text("Dear colleague")
    with pytest.raises(EnrolmentFileError, match=r"letter.json: .*Ask the hospital"):
        read_request_file(tmp_path / "letter.json")
    with pytest.raises(EnrolmentFileError, match="Name the kit's file"):
        read_kit_file(tmp_path / "absent.json")


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_bytes_make_a_reader_crash(data: bytes) -> None:
    for read in (read_request, read_kit):
        with pytest.raises(MedsegError):
            read(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServerFolder, SiteFolder, SiteRequest, SiteKit]:
    """A request and a kit that are sound, and the folders that they belong to."""
    folder = tmp_path_factory.mktemp("papers")
    server = make_server(folder / "server")
    site, request = make_site(folder / "site")
    return server, site, request, enrol(server, request)


@given(data=st.data())
def test_a_signed_paper_with_any_field_spoilt_is_taken_or_gets_a_sentence(
    papers: tuple[ServerFolder, SiteFolder, SiteRequest, SiteKit], data: st.DataObject
) -> None:
    """A stranger can sign whatever he likes: past the signature, too, no value makes anything crash."""
    server, site, request, kit = papers
    key = make_key()
    paper = data.draw(st.sampled_from([request, kit]))
    text = st.text(max_size=40) | st.sampled_from([request.node_key, kit.certificate, kit.authority])
    field = data.draw(st.sampled_from(sorted(set(type(paper).model_fields) - {"signature", "signing_key"})))
    changes = {"signing_key": public_text(key.public_key()), field: data.draw(text | JSON)}
    document = json.loads(paper.to_json()) | changes | {"signature": ""}
    body = json.dumps({k: v for k, v in document.items() if k != "signature"}, sort_keys=True).encode()
    document["signature"] = key.sign(b"medseg enrolment 1\x00" + body).hex()
    with contextlib.suppress(MedsegError):
        if isinstance(paper, SiteRequest):
            enrol(server, read_request(json.dumps(document).encode()))
        else:
            accept(site, read_kit(json.dumps(document).encode()))


@given(data=st.data())
def test_a_truncated_or_spoilt_file_gets_a_sentence(
    papers: tuple[ServerFolder, SiteFolder, SiteRequest, SiteKit], data: st.DataObject
) -> None:
    _, _, request, kit = papers
    read, good = data.draw(st.sampled_from([(read_request, request.to_json()), (read_kit, kit.to_json())]))
    at = data.draw(st.integers(0, len(good) - 2))
    with pytest.raises(MedsegError):
        read(good[:at])
    spoilt = good[:at] + data.draw(st.binary(min_size=1, max_size=4)) + good[at + 1 :]
    with contextlib.suppress(MedsegError):
        assert read(spoilt).signing_key in (request.signing_key, kit.signing_key)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_roster_makes_its_reader_crash(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = ServerFolder(Path(folder))
        (server.root / "roster.json").write_bytes(data)
        with contextlib.suppress(RosterError):
            assert server.roster() == {}


@given(field=st.sampled_from(sorted(Enrolled.model_fields)), value=JSON)
def test_a_roster_with_a_spoilt_entry_is_read_or_gets_a_sentence(
    papers: tuple[ServerFolder, SiteFolder, SiteRequest, SiteKit], field: str, value: object
) -> None:
    good = json.loads((papers[0].root / "roster.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        server = ServerFolder(Path(folder))
        (server.root / "roster.json").write_text(json.dumps([good[0] | {field: value}]))
        for name in ("crt", "key"):
            write_atomic(server.authority(name), papers[0].authority(name).read_bytes())
        with contextlib.suppress(MedsegError):
            write_admission(server)
            server.coordinator()
