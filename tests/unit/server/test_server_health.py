"""A coordinator's roles say whether they would take part in the next round, and what to do if not."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from enrolment import make_server
from real_gateway import Superlink

from medseg_core.files import sole_use, write_atomic
from medseg_core.supervision import free_ports
from medseg_server.gateway import write_gateway
from medseg_server.health import fault, kept_up, steward_looked
from medseg_server.server_folder import ServerFolder


@pytest.fixture
def server(tmp_path: Path) -> ServerFolder:
    server = make_server(tmp_path, superlink_port=free_ports(1)[0])
    write_gateway(server)
    return server


@pytest.fixture
def superlink(server: ServerFolder) -> Iterator[None]:
    """It answers, with its own certificate."""
    with Superlink(server) as answering:
        thread = threading.Thread(target=answering.serve_forever)
        thread.start()
        yield
        answering.shutdown()
        thread.join()


def test_a_role_is_kept_up_while_a_supervisor_holds_it(server: ServerFolder) -> None:
    assert kept_up(server) == ()
    with sole_use(server.root / "run" / "gateway"):
        assert kept_up(server) == ("gateway",)


@pytest.mark.parametrize("role", ["superlink", "gateway"])
def test_what_does_not_answer_is_named_with_its_log(server: ServerFolder, role: str) -> None:
    assert f"the {role} does not answer. Its log says why" in str(fault(server, role))  # type: ignore[arg-type]


@pytest.mark.usefixtures("superlink")
def test_a_superlink_is_ready_while_its_steward_looks(server: ServerFolder) -> None:
    assert "has not looked at roster and runs yet" in str(fault(server, "superlink"))
    steward_looked(server)
    assert fault(server, "superlink") is None
    looked = server.root / "run" / "superlink" / "looked"
    os.utime(looked, (time.time() - 400,) * 2)
    assert "has not looked at roster and runs for 400 s" in str(fault(server, "superlink"))


@pytest.mark.usefixtures("superlink")
def test_a_list_of_revoked_certificates_that_expired_is_told(
    server: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    steward_looked(server)
    monkeypatch.setattr("medseg_server.health.revocations_have_ended", lambda folder: True)
    assert "revoked certificates has expired" in str(fault(server, "superlink"))


@pytest.mark.usefixtures("superlink")
def test_superexec_is_ready_where_it_runs_and_reaches_the_superlink(server: ServerFolder) -> None:
    write_atomic(server.authority_for_superexec, server.authority("crt").read_bytes())
    server.authority("crt").unlink()  # superexec's container does not see that folder
    assert "superexec does not run" in str(fault(server, "superexec"))
    secret = str(server.root.absolute() / "flower" / "superexec.key")
    waiting = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", waiting, "flower-superexec", secret],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert fault(server, "superexec") is None
        process.communicate()
