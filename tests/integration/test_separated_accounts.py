"""Trainer, relay and way out under accounts of their own: a run works, and code that comes with one gets nothing."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator

import hostile_app
import psutil
import pytest
from accounts import GROUP, NAMES, name_accounts, open_folder, reachable, real_accounts
from experiments import TINY
from loopback import COORDINATOR, RUN_S, SITES, Loopback, call, make_loopback

from medseg_client.site_folder import SiteFolder
from medseg_core.supervision import program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="hospitals run on Linux"),
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes accounts and becomes them"
    ),
]
EXPERIMENT = f"""{TINY}[federation]
rounds = 2
"""
APART = SITES[0]


@pytest.fixture(scope="module")
def accounts() -> Iterator[dict[str, str]]:
    with real_accounts() as made:
        yield made


@pytest.fixture(scope="module")
def federation(accounts: dict[str, str]) -> Iterator[Loopback]:
    """The first hospital's roles run under accounts of their own, its images are the trainer's alone."""
    with open_folder() as root:
        made = make_loopback(root, EXPERIMENT, cases=4)
        images = root / "images of hospital-1"
        shutil.copytree(root / "images", images)
        subprocess.run(["chown", "-R", f"{accounts['trainer']}:", str(images)], check=True)
        images.chmod(0o700)
        settings = root / APART / "site.toml"
        settings.write_text(settings.read_text().replace(f"{root}/images/", f"{images}/"))
        name_accounts(settings, accounts)
        yield made


@pytest.fixture(scope="module")
def running(federation: Loopback) -> Iterator[Loopback]:
    with (federation.root / f"{APART}.log").open("a") as log:
        words = reachable(program("medseg-site"), "up", APART)
        federation.up[APART] = subprocess.Popen(words, cwd=federation.root, stdout=log, stderr=log)
    for name in (COORDINATOR, SITES[1]):
        federation.start(name)
    bundle = federation.root / COORDINATOR / "flower/bundle/pyproject.toml"
    end = time.monotonic() + RUN_S
    while not (bundle.exists() and SiteFolder(federation.root / APART).socket.exists()):
        assert time.monotonic() < end, (federation.root / f"{APART}.log").read_text()
        time.sleep(0.2)
    yield federation
    codes = {name: federation.stop(name) for name in (APART, SITES[1], COORDINATOR)}
    assert codes == dict.fromkeys(codes, 0), (federation.root / f"{APART}.log").read_text()
    assert [p for p in psutil.process_iter(["username"]) if p.info["username"] in NAMES.values()] == []


def test_a_run_through_separated_accounts_ends_with_the_weights_of_the_simulation(running: Loopback) -> None:
    root = running.root
    told = call(root, "medseg-server", "run", COORDINATOR, "experiment.toml")
    assert "finished" in told, told
    assert running.weights(running.run) == running.weights(running.simulated())
    for role, account in (
        ("trainer", "trainer"),
        ("node", "relay"),
        ("executor", "relay"),
        ("egress", "egress"),
    ):
        (process,) = running.find(role, APART)
        assert (process.username(), process.uids().effective != 0) == (NAMES[account], True)
    assert "up" in call(root, "medseg-site", "status", APART)
    assert "describe" in call(root, "medseg-site", "ledger", APART, "--json")
    call(root, "medseg-site", "models", "approve", APART, running.run.name)


def test_each_file_is_its_roles_alone(running: Loopback) -> None:
    site = SiteFolder(running.root / APART)
    for name, owner, mode in (
        ("keys/signing.key", "trainer", 0o600),
        ("keys/node.key", "relay", 0o600),
        ("keys/tls.key", "egress", 0o600),
        ("pki/egress.key", "egress", 0o600),
        ("ledger", "trainer", 0o700),
        ("state", "trainer", 0o700),
        ("cache", "trainer", 0o700),
        ("approved", "trainer", 0o700),
        ("run/relay", "relay", 0o700),
        ("run/socket", "trainer", 0o2750),
        ("run/socket/trainer.sock", "trainer", 0o660),
    ):
        found = site.root / name
        assert (found.owner(), oct(stat.S_IMODE(found.stat().st_mode))) == (NAMES[owner], oct(mode)), name
    assert site.socket.group() == GROUP


def test_the_trainers_account_and_root_give_commands_while_all_is_up(running: Loopback) -> None:
    root = running.root
    (root / "other.toml").write_text(EXPERIMENT.replace("rounds = 2", "rounds = 1"))
    as_root = call(root, "medseg-site", "approve", APART, "experiment.toml", "--yes")
    assert "approved experiment" in as_root
    for words in (
        ("approve", str(root / APART), str(root / "other.toml"), "--yes"),
        ("ledger", "verify", str(root / APART)),
        ("status", str(root / APART)),
        ("models", "list", str(root / APART)),
    ):
        command = ("runuser", "-u", NAMES["trainer"], "--", program("medseg-site"), *words)
        done = subprocess.run(reachable(*command), text=True, capture_output=True, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr
    assert {path.owner() for path in (root / APART / "approved").iterdir()} == {NAMES["trainer"]}


def aim(federation: Loopback, name: str, addresses: list[tuple[str, int]]) -> None:
    """Tells an attacker what to go for at a hospital: every private file and folder, and addresses."""
    site = SiteFolder(federation.root / name)
    folders = (
        "ledger",
        "ledger/ledger.jsonl",
        "state",
        "cache",
        "approved",
        "models",
        "logs/trainer",
        "run/trainer",
    )
    keys = ("keys/signing.key", "keys/tls.key", "pki/egress.key")
    images = (site.root / site.settings.data).parent
    paths = [*(site.root / name for name in (*folders, *keys)), images, site.root / site.settings.data]
    document = {"paths": [str(path) for path in paths], "addresses": addresses}
    (site.root / "site.targets.json").write_text(json.dumps(document))


def datagrams_in(inbox: socket.socket) -> Iterator[bytes]:
    """What has arrived."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield inbox.recv(64)


def loot_at(federation: Loopback, name: str) -> dict[str, str]:
    """What the attack got at a hospital."""
    path = federation.root / name / "run/relay/flower/relay/loot.json"
    return dict(json.loads(path.read_text()))


def test_code_that_comes_with_a_run_reads_nothing_and_reaches_nobody(running: Loopback) -> None:
    """A bundle with code in place of ours goes through superlink and node, as any coordinator can send it.

    At the second hospital, where all roles share an account, the same code gets what it goes for.
    """
    root = running.root
    gateway = SiteFolder(root / APART).kit.address.rsplit(":", 1)
    with socket.create_server(("127.0.0.1", 0)) as outside, socket.socket(type=socket.SOCK_DGRAM) as inbox:
        inbox.bind(outside.getsockname())
        inbox.setblocking(False)
        here = [("127.0.0.1", int(gateway[1])), ("127.0.0.1", outside.getsockname()[1])]
        aim(running, APART, [*here, ("192.0.2.1", 53)])
        aim(running, SITES[1], here)
        bundle = root / COORDINATOR / "flower/bundle"
        shutil.copy(hostile_app.__file__, bundle / "hostile_app.py")
        project = bundle / "pyproject.toml"
        project.write_text(project.read_text().replace("medseg_client.relay:app", "hostile_app:app"))
        told = call(root, "medseg-server", "run", COORDINATOR, "experiment.toml")
        senders = set(datagrams_in(inbox))
    assert "finished" in told, told
    assert senders == {b"0"}  # root's relay at the second hospital, and no other
    relay = pwd.getpwnam(NAMES["relay"]).pw_uid
    apart = loot_at(running, APART)
    own = [
        name for name in apart if name.startswith("sent to 127.0.0.1")
    ]  # its own loopback takes what it sends
    assert {n: got for n, got in apart.items() if n not in own} == {"ran as": str(relay), "interfaces": "lo"}
    shared = loot_at(running, SITES[1])
    for got in (
        "read",
        "written",
        "process: memory",
        "process: environ",
        "process: traced",
        "connected",
        "sent",
    ):
        assert any(name.startswith(got) for name in shared), (got, shared)
    key = root / SITES[1] / "keys/signing.key"
    assert "PRIVATE KEY" in shared[f"read {key}"]


def test_a_check_by_root_tries_what_the_accounts_can_read(running: Loopback) -> None:
    def finding() -> str:
        command = reachable(program("medseg-site"), "check", str(running.root / APART))
        done = subprocess.run(command, text=True, capture_output=True)
        (line,) = [line for line in done.stdout.splitlines() if "separation of trainer" in line]
        return line

    assert finding().startswith("ok"), finding()
    key = running.root / APART / "keys/signing.key"
    key.chmod(0o644)
    try:
        assert finding().startswith("fault")
    finally:
        key.chmod(0o600)
