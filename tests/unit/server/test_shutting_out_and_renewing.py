"""Sites that are revoked, renewed and enrolled again: what the gateway and Flower are told, and what nobody forgets."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from enrolment import make_server, make_site

from medseg_core.federation_errors import EnrolmentError, FlowerError, NotEnrolledError, UnknownSiteError
from medseg_core.files import write_atomic
from medseg_core.wire.enrolment import read_kit, sign
from medseg_core.wire.signatures import make_key, public_text
from medseg_server import certificates
from medseg_server.enrolling import enrol, open_authority
from medseg_server.flower_control import FlowerControl
from medseg_server.gateway import write_admission
from medseg_server.membership import renew, renew_servers, revoke, standings
from medseg_server.server_folder import ServerFolder
from medseg_server.services import Steward


@pytest.fixture
def server(tmp_path: Path) -> ServerFolder:
    return make_server(tmp_path / "server")


def enrol_new(server: ServerFolder, folder: Path, name: str) -> None:
    enrol(server, make_site(folder, name)[1])


def revoked_serials(server: ServerFolder) -> set[str]:
    crl = x509.load_pem_x509_crl(server.revocations.read_bytes())
    return {str(entry.serial_number) for entry in crl}


def bindings(server: ServerFolder) -> list[str]:
    return (server.root / "gateway/bindings").read_text().splitlines()


def serials(server: ServerFolder, site: str) -> list[str]:
    return [c.serial for c in server.roster()[site].certificates]


def test_a_revoked_site_is_on_the_list_and_the_others_are_as_before(
    server: ServerFolder, tmp_path: Path
) -> None:
    enrol_new(server, tmp_path / "north", "north")
    enrol_new(server, tmp_path / "south", "south")
    write_admission(server)
    before, south = bindings(server), server.roster()["south"]

    revoke(server, "north")

    assert revoked_serials(server) == set(serials(server, "north"))
    assert len(bindings(server)) == 1
    assert bindings(server)[0] in before
    assert server.roster()["south"] == south
    assert list(server.enrolled()) == ["south"]
    assert set(server.coordinator().roster) == {"south"}


def test_every_certificate_of_a_site_stays_revoked_when_it_comes_back_with_new_keys(
    server: ServerFolder, tmp_path: Path
) -> None:
    enrol_new(server, tmp_path / "first", "north")
    renew(server, "north")
    revoke(server, "north")
    enrol_new(server, tmp_path / "second", "north")
    enrol_new(server, tmp_path / "third", "north")  # without a revocation in between: a lost machine
    write_admission(server)

    *old, newest = serials(server, "north")
    assert len(old) == 3
    assert revoked_serials(server) == set(old)
    assert len(bindings(server)) == 1
    assert newest not in revoked_serials(server)


def test_a_renewed_certificate_is_for_the_same_keys_and_the_one_before_stays_good(
    server: ServerFolder, tmp_path: Path
) -> None:
    _, request = make_site(tmp_path / "north")
    old = x509.load_pem_x509_certificate(enrol(server, request).certificate.encode())
    renew(server, "north")
    new = x509.load_pem_x509_certificate(read_kit(server.kit("north").read_bytes()).certificate.encode())
    assert new.public_key() == old.public_key()
    assert new.serial_number != old.serial_number
    assert len(bindings(server)) == 2
    assert revoked_serials(server) == set()
    revoke(server, "north")
    assert revoked_serials(server) == {str(old.serial_number), str(new.serial_number)}


def test_the_same_request_again_makes_another_kit_and_shuts_nothing_out(
    server: ServerFolder, tmp_path: Path
) -> None:
    _, request = make_site(tmp_path / "north")
    enrol(server, request)
    enrol(server, request)
    write_admission(server)
    assert len(bindings(server)) == 2
    assert revoked_serials(server) == set()


def test_keys_that_were_shut_out_never_come_back(server: ServerFolder, tmp_path: Path) -> None:
    _, request = make_site(tmp_path / "north")
    enrol(server, request)
    revoke(server, "north")
    with pytest.raises(EnrolmentError, match=r"never accepts it again.*`medseg-site init` in a new folder"):
        enrol(server, request)
    enrol_new(server, tmp_path / "again", "north")
    with pytest.raises(EnrolmentError, match="never accepts it again"):
        enrol(server, request)


def test_a_node_key_serves_one_site(server: ServerFolder, tmp_path: Path) -> None:
    enrol_new(server, tmp_path / "north", "north")
    _, request = make_site(tmp_path / "south", "south")
    key, taken = make_key(), server.roster()["north"].node_key
    fields = {"node_key": taken, "signing_key": public_text(key.public_key())}
    with pytest.raises(EnrolmentError, match="its node key is that of north"):
        enrol(server, sign(request.model_copy(update=fields), key))
    assert list(server.roster()) == ["north"]


def test_a_site_that_is_unknown_or_revoked_gets_a_sentence(server: ServerFolder, tmp_path: Path) -> None:
    enrol_new(server, tmp_path / "north", "north")
    for change in (revoke, renew):
        with pytest.raises(UnknownSiteError, match=r"no site 'south'.*holds: north"):
            change(server, "south")
    revoke(server, "north")
    with pytest.raises(NotEnrolledError, match="`medseg-site init` in a new folder"):
        renew(server, "north")


def test_the_standing_of_a_site_names_its_fingerprint_and_the_end_of_its_certificate(
    server: ServerFolder, tmp_path: Path
) -> None:
    _, request = make_site(tmp_path / "north")
    enrol(server, request)
    (standing,) = standings(server, {"north": "online"})
    assert (standing.fingerprint, standing.status, standing.connection) == (
        request.fingerprint,
        "enrolled",
        "online",
    )
    assert standing.expires_at == server.roster()["north"].certificates[0].expires_at
    revoke(server, "north")
    (standing,) = standings(server, None)
    assert (standing.status, standing.expires_at, standing.connection) == ("revoked", None, None)


class Superlink(FlowerControl):
    """Flower's answers as they are: the list names no keys, a key is registered once, for good."""

    def __init__(self, folder: ServerFolder) -> None:
        super().__init__(folder)
        self.prepare()
        self.nodes_by_key: dict[str, int] = {}
        self.gone: set[int] = set()

    def _call(self, *words: str) -> Mapping[str, Any]:
        match words[:2]:
            case ("supernode", "list"):
                return {"nodes": [{"node-id": str(n), "status": self._status(n)} for n in self._ids]}
            case ("supernode", "register"):
                key = Path(words[2]).read_text().strip()
                if key in self.nodes_by_key:
                    raise FlowerError("supernode", "public key is in use, code 23")
                self.nodes_by_key[key] = len(self.nodes_by_key) + 100
                return {"node-id": self.nodes_by_key[key]}
            case ("supernode", "unregister"):
                self.gone.add(int(words[2]))
                return {}
        raise AssertionError(words)

    @property
    def _ids(self) -> list[int]:
        return list(self.nodes_by_key.values())

    def _status(self, node: int) -> str:
        return "unregistered" if node in self.gone else "online"

    @property
    def in_force(self) -> set[str]:
        return {key for key, node in self.nodes_by_key.items() if node not in self.gone}


def steward_of(
    server: ServerFolder, control: FlowerControl, restart: Callable[[str], None] = lambda name: None
) -> Steward:
    return Steward(server, control, lambda name, state: None, restart)


def node_keys(server: ServerFolder) -> set[str]:
    return {entry.node_key for entry in server.enrolled().values()}


def test_flower_is_kept_in_line_with_the_roster_whatever_happens_to_it(
    server: ServerFolder, tmp_path: Path
) -> None:
    control = Superlink(server)
    steward = steward_of(server, control)
    enrol_new(server, tmp_path / "north", "north")
    steward.look()
    enrol_new(server, tmp_path / "south", "south")
    steward.look()
    assert control.in_force == node_keys(server)

    revoke(server, "north")
    steward.look()
    assert control.in_force == node_keys(server) != set()
    enrol_new(server, tmp_path / "north-again", "north")
    steward_of(server, control).look()  # `up` was started anew in between
    assert control.in_force == node_keys(server)
    assert len(control.in_force) == 2


def test_a_node_that_was_registered_just_before_a_crash_is_found_again(
    server: ServerFolder, tmp_path: Path
) -> None:
    control = Superlink(server)
    enrol_new(server, tmp_path / "north", "north")
    control.nodes_by_key[server.roster()["north"].node_key] = 7  # and no note of it
    steward_of(server, control).look()
    assert {node.identifier for node in control.nodes().values()} == {7}


def days_left(server: ServerFolder) -> float:
    crl = x509.load_pem_x509_crl(server.revocations.read_bytes())
    assert crl.next_update_utc is not None
    return (crl.next_update_utc - crl.last_update_utc).total_seconds() / 86400


def test_the_list_of_revoked_certificates_is_signed_anew_before_it_expires(
    server: ServerFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol_new(server, tmp_path / "north", "north")
    revoke(server, "north")
    steward = steward_of(server, Superlink(server))
    steward.look()
    fresh = server.revocations.read_bytes()
    steward.look()
    assert server.revocations.read_bytes() == fresh

    with monkeypatch.context() as short:
        short.setattr(certificates, "REVOCATIONS_DAYS", 1)
        write_atomic(server.revocations, certificates.revocations(open_authority(server), []))
    assert days_left(server) < 2
    steward.look()
    assert days_left(server) > 29
    assert revoked_serials(server) == set(serials(server, "north"))


def test_renewed_certificates_of_the_servers_are_read_once(server: ServerFolder) -> None:
    restarted: list[str] = []
    steward = steward_of(server, Superlink(server), restarted.append)
    old = x509.load_pem_x509_certificate(server.server("gateway", "crt").read_bytes())
    steward.look()
    assert restarted == []
    renew_servers(server)
    steward.look()
    steward.look()
    assert restarted == ["superlink"]
    new = x509.load_pem_x509_certificate(server.server("gateway", "crt").read_bytes())
    assert new.serial_number != old.serial_number
    assert new.public_key() == old.public_key()
