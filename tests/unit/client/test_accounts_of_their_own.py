"""Roles under accounts of their own: which accounts will do, who may start them, what root does to a site's folder."""

import grp
import os
import pwd
import shutil
import stat
import threading
from pathlib import Path

import pytest
from accounts import name_accounts, open_folder
from enrolment import make_server, make_site

from medseg_client import separation
from medseg_client.accounts import bring_into_order, find_accounts, leaks, require_apart
from medseg_client.joining import accept
from medseg_client.machine_check import check_machine
from medseg_client.separation import keep_up_as_asked
from medseg_client.site_folder import Accounts, Role, SiteFolder
from medseg_core.errors import ExperimentFileError
from medseg_core.federation_errors import (
    ForeignAccountError,
    LeakyAccountError,
    PlantedLinkError,
    SharedAccountError,
    UnknownAccountError,
    UnreachableError,
)
from medseg_core.files import write_atomic
from medseg_server.enrolling import enrol

THERE = {"trainer": "daemon", "relay": "bin", "egress": "nobody", "socket_group": "games"}  # on every Debian
only_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away and becomes others"
)


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    """A site that joined, with an approved experiment and some state."""
    return make_full_site(tmp_path)


def make_full_site(folder: Path) -> SiteFolder:
    site, request = make_site(folder / "north")
    accept(site, enrol(make_server(folder / "server"), request))
    images = folder / "images"
    images.mkdir()
    (images / "scan.nii").write_text("voxels")
    text = (site.root / "site.toml").read_text().replace('data = "/images"', f'data = "{images}"')
    (site.root / "site.toml").write_text(text)
    write_atomic(site.root / "approved/a.toml", b"x")
    write_atomic(site.root / "state/run/train_1/reply", b"x")
    name_accounts(site.root / "site.toml", THERE)
    return site


def accounts_of(site: SiteFolder) -> dict[Role, object]:
    named = site.settings.accounts
    assert named is not None
    return dict(find_accounts(named))


@pytest.mark.parametrize(
    ("wrong", "command"),
    [
        ({"trainer": "no-such-account"}, "useradd --system --user-group .* no-such-account"),
        ({"socket_group": "no-such-group"}, "groupadd --system no-such-group"),
    ],
)
def test_an_account_that_is_not_there_is_named_with_the_command_that_makes_it(
    wrong: dict[str, str], command: str
) -> None:
    with pytest.raises(UnknownAccountError, match=command):
        find_accounts(Accounts(**(THERE | wrong)))


@pytest.mark.parametrize(
    "wrong",
    [{"trainer": "root"}, {"relay": "daemon"}, {"socket_group": "daemon"}, {"socket_group": "root"}],
)
def test_roles_that_would_share_an_account_or_a_group_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SharedAccountError, match="three accounts"):
        find_accounts(Accounts(**(THERE | wrong)))


@pytest.mark.parametrize("name", ["", "-x", "a b", "a:b", "x" * 40, "a\nb"])
def test_what_is_no_name_of_an_account_is_refused(site: SiteFolder, name: str) -> None:
    name_accounts(site.root / "site.toml", {})
    text = (site.root / "site.toml").read_text().split("[accounts]")[0]
    (site.root / "site.toml").write_text(f"{text}[accounts]\ntrainer = {name!r}\n".replace("\\n", "\\\\n"))
    with pytest.raises(ExperimentFileError, match="trainer"):
        _ = site.settings


def test_who_is_neither_root_nor_the_account_of_a_role_does_not_start_it(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separation.os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    said: list[tuple[str, str]] = []
    for roles in (tuple(Role), (Role.TRAINER,), (Role.EGRESS, Role.RELAY)):
        with pytest.raises(ForeignAccountError, match=r"this is nobody\. Start `medseg-site up` as root"):
            keep_up_as_asked(site, threading.Event(), lambda *words: said.append(words), roles=roles)
    assert said == []
    assert not site.run(Role.EGRESS).exists()


@only_root
def test_root_gives_each_role_its_own_and_keeps_the_rest(site: SiteFolder) -> None:
    bring_into_order(site, accounts_of(site))

    def found(name: str) -> tuple[str, str, str]:
        entry = site.root / name
        return entry.owner(), entry.group(), oct(stat.S_IMODE(entry.stat().st_mode))

    assert found("keys/signing.key") == ("daemon", "daemon", "0o600")
    assert found("keys/node.key") == ("bin", "bin", "0o600")
    assert found("keys/tls.key") == found("pki/egress.key") == ("nobody", "nogroup", "0o600")
    assert found("site.toml") == found("kit.json") == found("pki/site.crt") == ("root", "root", "0o644")
    assert found(".") == found("keys") == found("run") == found("logs") == ("root", "root", "0o755")
    assert found("approved") == found("ledger") == ("daemon", "daemon", "0o700")
    assert found("state/run/train_1/reply")[:1] == ("daemon",)
    assert found("run/socket") == ("daemon", "games", "0o2750")
    assert found("run/hop") == ("nobody", "bin", "0o2750")
    assert found("run/relay") == found("logs/relay") == ("bin", "bin", "0o700")


@only_root
def test_what_a_role_put_into_its_folder_gives_it_no_file_of_another(
    site: SiteFolder, tmp_path: Path
) -> None:
    """A link, or a second name of a file, from a relay that runs code of others."""
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_text("x")
    folder.mkdir()
    (folder / "inside").write_text("x")
    site.run(Role.RELAY).mkdir(parents=True)
    (site.run(Role.RELAY) / "link").symlink_to(secret)
    (site.run(Role.RELAY) / "folder").symlink_to(folder)
    (site.run(Role.RELAY) / "second-name").hardlink_to(secret)
    bring_into_order(site, accounts_of(site))
    assert {path.owner() for path in (secret, folder, folder / "inside")} == {"root"}
    assert site.run(Role.RELAY).owner() == "bin"


@only_root
@pytest.mark.parametrize("name", ["state", "site.toml", "keys/node.key", "run"])
def test_a_link_from_the_time_before_gives_nothing_away(site: SiteFolder, tmp_path: Path, name: str) -> None:
    """The folder was some account's own until now, and code from outside may have run as that account."""
    place, elsewhere, accounts = site.root / name, tmp_path / "elsewhere", accounts_of(site)
    if place.is_dir():
        shutil.rmtree(place)
    if name in ("state", "run"):
        elsewhere.mkdir(mode=0o751)
        (elsewhere / "inside").write_text("x")
    else:
        place.rename(elsewhere)
        elsewhere.chmod(0o640)
    before = elsewhere.stat()
    place.symlink_to(elsewhere)
    os.chown(place, pwd.getpwnam("games").pw_uid, -1, follow_symlinks=False)

    with pytest.raises(PlantedLinkError, match="Look at where it leads"):
        bring_into_order(site, accounts)
    after = elsewhere.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)

    os.chown(place, 0, -1, follow_symlinks=False)  # such as a cache that the hospital put on another disk
    bring_into_order(site, accounts)


@only_root
def test_a_key_with_a_second_name_gives_nothing_away(site: SiteFolder, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("x")
    site.key("node").unlink()
    site.key("node").hardlink_to(tmp_path / "shadow")
    with pytest.raises(PlantedLinkError):
        bring_into_order(site, accounts_of(site))
    assert (tmp_path / "shadow").owner() == "root"


@only_root
def test_what_root_writes_for_an_account_belongs_to_it(site: SiteFolder) -> None:
    bring_into_order(site, accounts_of(site))
    write_atomic(site.root / "approved/b.toml", b"y")
    assert (site.root / "approved/b.toml").owner() == "daemon"


@only_root
def test_a_site_that_an_account_cannot_reach_does_not_start(site: SiteFolder) -> None:
    """pytest's folders are for one account."""
    accounts = accounts_of(site)
    bring_into_order(site, accounts)
    with pytest.raises(UnreachableError, match=r"account daemon cannot read .* such as in /opt"):
        require_apart(site, accounts)


@only_root
def test_what_an_account_can_read_and_must_not_is_found_by_trying() -> None:
    with open_folder() as folder:
        site = make_full_site(folder)
        accounts = accounts_of(site)
        bring_into_order(site, accounts)
        images = folder / "images"
        images.chmod(0o755)
        assert {(a.name, path) for a, path in leaks(site, accounts)} == {("bin", images), ("nobody", images)}
        (finding,) = [f for f in check_machine(site) if f.topic.startswith("separation")]
        assert (finding.state, str(images) in finding.detail) == ("fault", True)
        assert str(folder) not in finding.text + finding.remedy

        os.chown(images, pwd.getpwnam("daemon").pw_uid, -1)
        images.chmod(0o700)
        assert list(leaks(site, accounts)) == []

        os.chown(site.root / "ledger", -1, grp.getgrnam("bin").gr_gid)
        (site.root / "ledger").chmod(0o750)
        ((account, path),) = leaks(site, accounts)
        assert (account.role, path) == (Role.RELAY, site.root / "ledger")
        assert "bin can read" in str(LeakyAccountError(account.name, path))
