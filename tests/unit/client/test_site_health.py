"""A site's roles say whether they would take part in the next round, and what to do if not."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import make_experiment
from joined_site import make_joined_site, trainer_of

from medseg_client import health
from medseg_client.health import fault, kept_up
from medseg_client.site_folder import Role, SiteFolder
from medseg_client.trainer_service import serving
from medseg_core.files import sole_use


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteFolder:
    """A site that joined, and approved an experiment."""
    monkeypatch.setattr(health, "PATIENCE_S", 20.0)
    _, site = make_joined_site(tmp_path)
    site.approved.add(make_experiment())
    return site


@pytest.fixture
def trainer(site: SiteFolder) -> Iterator[None]:
    """Its trainer answers."""
    with serving(trainer_of(site), site.socket):
        yield


def write_egress_log(site: SiteFolder, path: str) -> None:
    site.egress_log.parent.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    site.egress_log.write_text(f'{now} "POST /v1/fleet/{path}" 200 gateway=200 in=1 out=1 seconds=0.1\n')


def test_a_role_is_kept_up_while_a_supervisor_holds_it(site: SiteFolder) -> None:
    assert kept_up(site) == ()
    with sole_use(site.run(Role.RELAY)), sole_use(site.run(Role.TRAINER)):
        assert set(kept_up(site)) == {Role.RELAY, Role.TRAINER}


@pytest.mark.usefixtures("trainer")
def test_a_trainer_that_answers_and_has_an_experiment_is_ready(site: SiteFolder) -> None:
    assert fault(site, Role.TRAINER) is None


@pytest.mark.parametrize("role", [Role.TRAINER, Role.RELAY])
def test_without_an_answer_on_the_socket_nobody_takes_part(
    site: SiteFolder, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.2)
    told = fault(site, role)
    assert told is not None
    assert "the trainer does not answer" in told


@pytest.mark.usefixtures("trainer")
def test_a_trainer_without_an_approved_experiment_says_how_to_approve_one(site: SiteFolder) -> None:
    shutil.rmtree(site.root / "approved")
    assert str(fault(site, Role.TRAINER)).endswith("medseg-site approve DIR EXPERIMENT.toml")


@pytest.mark.usefixtures("trainer")
def test_an_expired_certificate_is_named_with_its_day(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_ten_years = time.time() + 10 * 365 * 86400
    monkeypatch.setattr(health, "time", SimpleNamespace(time=lambda: in_ten_years))
    assert "certificate expired on 20" in str(fault(site, Role.TRAINER))


@pytest.mark.usefixtures("trainer")
def test_a_relay_is_ready_while_its_node_asks_for_messages(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot be read" in str(fault(site, Role.RELAY))
    write_egress_log(site, "pull-messages")
    assert fault(site, Role.RELAY) is None
    write_egress_log(site, "send-node-heartbeat")  # and nothing else: it only looks alive
    assert "has not asked for messages" in str(fault(site, Role.RELAY))
    monkeypatch.setattr(health, "_is_at_work", lambda: True)
    assert fault(site, Role.RELAY) is None
