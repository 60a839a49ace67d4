"""Where a site stands, and that what it leaves behind is what it said."""

from pathlib import Path

import pytest

from medseg_client.joining import accept, begin
from medseg_client.membership import leave, status
from medseg_client.site_folder import Role, SiteFolder, SiteSettings
from medseg_core.errors import BusyFolderError
from medseg_core.federation_errors import NotJoinedError
from medseg_core.files import sole_use
from medseg_server.enrolling import begin as begin_federation
from medseg_server.enrolling import enrol
from medseg_server.server_folder import ServerFolder, ServerSettings


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    """A site that has joined, with something in every folder."""
    server, folder = ServerFolder(tmp_path / "server"), SiteFolder(tmp_path / "north")
    begin_federation(server, ServerSettings(name="lab", address="127.0.0.1:4433", superlink_port=4434))
    settings = SiteSettings(name="north", data=tmp_path / "images", egress_port=4435, node_port=4436)
    accept(folder, enrol(server, begin(folder, settings)))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scan.nii").write_text("voxels")
    for name in ("approved", "models", "state", "cache", "logs", "ledger"):
        (folder.root / name).mkdir(exist_ok=True)
        (folder.root / name / "something").write_text("x")
    return folder


def test_a_site_says_where_it_stands(site: SiteFolder) -> None:
    (site.root / "ledger" / "something").unlink()
    (site.root / "models" / "something").unlink()
    found = status(site)
    assert (found.site, found.federation, found.coordinator) == ("north", "lab", "127.0.0.1:4433")
    assert (found.state, found.last_request, found.ledger_lines) == ("stopped", None, 0)
    site.egress_log.parent.mkdir()
    site.egress_log.write_text('2026-01-01T00:00:00+00:00 "POST /v1/fleet/pull-messages" 200\n')
    with sole_use(site.run(Role.RELAY)):
        found = status(site)
    assert (found.state, found.last_request) == ("up", 1767225600.0)


def test_after_leaving_the_coordinator_is_unknown_and_the_rest_stays(site: SiteFolder) -> None:
    leave(site, purge=False)
    with pytest.raises(NotJoinedError):
        _ = site.kit
    assert status(site).federation is None
    assert not (site.root / "pki/site.crt").exists()
    assert (site.root / "cache/something").exists()
    assert site.key("signing").exists()


def test_a_purge_leaves_images_settings_and_the_ledger(site: SiteFolder) -> None:
    (site.root / "report.html").write_text("images")
    for path in (site.pseudonym_key, site.imports / "names.csv"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("who is who")
    leave(site, purge=True)
    left = sorted(path.name for path in site.root.iterdir())
    assert left == ["ledger", "north.request.json", "site.toml"]
    assert (site.root / "ledger/something").exists()
    assert (site.settings.data / "scan.nii").read_text() == "voxels"


def test_a_site_that_runs_does_not_leave(site: SiteFolder) -> None:
    with sole_use(site.run(Role.TRAINER)), pytest.raises(BusyFolderError):
        leave(site, purge=True)
    assert site.kit.federation == "lab"
    assert (site.root / "cache/something").exists()
