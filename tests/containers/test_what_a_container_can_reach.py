"""What processes of a hospital can see and reach in their containers, also code that the coordinator sent."""

import json
import socket
import threading
from collections.abc import Iterator

import pytest
from engine import COORDINATOR, HOSPITALS, SERVICES, Containers, docker, wait_until

pytestmark = pytest.mark.slow
SITE = HOSPITALS[0]
EVERY = [(owner, service) for owner in (COORDINATOR, SITE) for service in SERVICES[owner]]
OUTSIDE = "192.0.2.1"  # an address of documents, which belongs to nobody

# what code in a container tries; prints what it got: an empty object is what we want
ATTEMPTS = """
import json, os, pathlib, socket
got = {{}}
def attempt(name, work):
    try:
        got[name] = str(work())[:80]
    except OSError:
        pass
def read(path):
    return lambda: pathlib.Path(path).read_bytes()[:20] if not os.path.isdir(path) else os.listdir(path)
for path in ("/data", "/data/manifest.csv", "/site/keys/signing.key", "/site/keys/tls.key", "/site/ledger",
             "/site/cache", "/site/state", "/site/approved", "/site/kit.json", "/site/run/trainer",
             "/site/logs/trainer"):
    attempt(path, read(path))
for number in [name for name in os.listdir("/proc") if name.isdecimal()]:
    try:
        words = pathlib.Path("/proc", number, "cmdline").read_bytes()
    except OSError:
        continue
    if b"medseg_client\\0trainer" in words:
        got["trainer"] = number
for host, port in {targets}:
    attempt(f"{{host}}:{{port}}", lambda: socket.create_connection((host, port), timeout=1).getpeername())
attempt("write /", lambda: pathlib.Path("/opt/medseg/found").write_text("x"))
attempt("write site.toml", lambda: pathlib.Path("/site/site.toml").write_text("x"))
attempt("write the egress log", lambda: pathlib.Path("/site/logs/egress/egress.access.log").open("a").write("x"))
"""


def attempts(federation: Containers, port: int) -> str:
    """The code, with every address that there is to try: other containers', this machine's, one outside."""
    targets: list[tuple[str, int]] = [(OUTSIDE, 443), ("gateway", 8443), ("example.org", 443)]
    for owner, services in SERVICES.items():
        for service in services:
            if (owner, service) in ((SITE, "relay"), (SITE, "egress")):
                continue
            targets += [(address, 8443) for address in addresses(federation, owner, service)]
    targets += [(address, port) for address in own_addresses()]
    return ATTEMPTS.format(targets=targets)


def addresses(federation: Containers, owner: str, service: str) -> list[str]:
    (found,) = json.loads(docker("inspect", federation.container(owner, service)))
    networks = found["NetworkSettings"]["Networks"].values()
    return [network["IPAddress"] for network in networks if network["IPAddress"]]


def own_addresses() -> list[str]:
    """Of this machine, on every bridge of the engine: where its services would be reached."""
    ids = docker("network", "ls", "--quiet", "--filter=driver=bridge").split()
    networks = json.loads(docker("network", "inspect", *ids))
    return [c["Gateway"] for network in networks for c in network["IPAM"]["Config"] if "Gateway" in c]


@pytest.fixture
def service_of_this_machine() -> Iterator[int]:
    """A port of this machine that anybody who can reach it may connect to."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104
        server.settimeout(0.2)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


@pytest.mark.parametrize(("owner", "service"), EVERY)
def test_no_process_has_root_capabilities_or_a_writable_root(
    federation: Containers, owner: str, service: str
) -> None:
    code = (
        "import pathlib\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*/status'):\n"
        "    f = dict(l.split(':\\t', 1) for l in p.read_text().splitlines() if ':\\t' in l)\n"
        "    print(f['Uid'].split()[0], f['CapEff'], f['CapBnd'], f['NoNewPrivs'])\n"
        "try:\n    pathlib.Path('/opt/medseg/x').touch(); print('written')\nexcept OSError as e: print(e.errno)\n"
    )
    *processes, written = federation.python(owner, service, code).splitlines()
    assert len(processes) >= 3  # tini, the supervisor, what it keeps up
    for line in processes:
        uid, *capabilities, no_new_privileges = line.split()
        assert uid.startswith("100"), line
        assert {int(text, 16) for text in capabilities} == {0}
        assert no_new_privileges == "1"
    assert written == "30"  # read-only file system


@pytest.mark.parametrize(("owner", "service"), EVERY)
def test_its_limits_are_set(federation: Containers, owner: str, service: str) -> None:
    (found,) = json.loads(docker("inspect", federation.container(owner, service)))
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["Memory"] > 0
    assert 0 < host["PidsLimit"] <= 512
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


def test_the_trainer_has_no_network_interface_but_loopback(federation: Containers) -> None:
    code = "import socket; print([name for _, name in socket.if_nameindex()])"
    assert federation.python(SITE, "trainer", code) == "['lo']\n"


def test_the_trainer_cannot_change_the_images(federation: Containers) -> None:
    code = "open('/data/x', 'w')"
    with pytest.raises(AssertionError, match="Read-only file system"):
        federation.python(SITE, "trainer", code)
    assert "manifest.csv" in federation.inside(SITE, "trainer", "ls", "/data")


def test_neither_relay_nor_way_out_nor_trainer_holds_the_key_of_another(federation: Containers) -> None:
    readable = (
        "import pathlib\n"
        "for path in sorted(pathlib.Path('/site/keys').iterdir()):\n"
        "    try: path.read_bytes(); print(path.stem)\n"
        "    except OSError: pass\n"
    )
    keys = {service: federation.python(SITE, service, readable).split() for service in SERVICES[SITE]}
    assert keys == {"trainer": ["signing"], "relay": ["node"], "egress": ["tls"]}


def test_the_gateway_holds_no_key_but_its_own_and_cannot_change_who_comes_in(federation: Containers) -> None:
    found = federation.inside(COORDINATOR, "gateway", "find", "/federation", "-name", "*.key")
    assert found.split() == ["/federation/gateway/gateway.key"]
    with pytest.raises(AssertionError, match="Read-only file system"):
        federation.python(COORDINATOR, "gateway", "open('/federation/gateway/bindings', 'a')")


def test_superexec_sees_neither_the_key_of_the_authority_nor_those_of_the_servers(
    federation: Containers,
) -> None:
    found = federation.inside(COORDINATOR, "superexec", "find", "/federation", "-name", "*.key")
    assert sorted(found.split()) == ["/federation/flower/superexec.key", "/federation/keys/signing.key"]


def test_a_relay_reaches_its_way_out_and_nothing_else(
    federation: Containers, service_of_this_machine: int
) -> None:
    port = federation.python(
        SITE, "relay", "import tomllib; print(tomllib.load(open('/site/site.toml', 'rb'))['egress_port'])"
    )
    reach = f"import socket; socket.create_connection(('egress', {int(port)}), timeout=3)"
    federation.python(SITE, "relay", reach)
    code = attempts(federation, service_of_this_machine) + "print(json.dumps(got))"
    assert json.loads(federation.python(SITE, "relay", code)) == {}
    assert "gateway:8443" in json.loads(
        federation.python(SITE, "egress", code)
    )  # so the attempts are good ones
    seen_by_trainer = json.loads(federation.python(SITE, "trainer", code))
    assert "/data/manifest.csv" in seen_by_trainer
    assert "write site.toml" not in seen_by_trainer  # nobody but people changes the rules


HOSTILE = {
    "pyproject.toml": """
[project]
name = "hostile"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "hostile"
[tool.flwr.app.components]
serverapp = "hostile.coordinator:app"
clientapp = "hostile.relay:app"
""",
    "hostile/__init__.py": "",
    "hostile/coordinator.py": """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    asked = [Message(RecordDict({"ask": ConfigRecord({"x": 1})}), dst_node_id=n, message_type="query") for n in nodes]
    for reply in grid.send_and_receive(asked, timeout=90):
        told = reply.content.config_records["got"]["json"] if reply.has_content() else str(reply.error)
        with open("/federation/logs/hostile.log", "a") as file:
            file.write(told + "\\n")
""",
    "hostile/relay.py": """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def query(message, context):
{attempts}
    return Message(RecordDict({{"got": ConfigRecord({{"json": "ran " + json.dumps(got)}})}}), reply_to=message)
""",
}


def test_code_in_the_app_bundle_finds_no_images_keys_or_ways_out(
    federation: Containers, service_of_this_machine: int
) -> None:
    tried = "\n".join("    " + line for line in attempts(federation, service_of_this_machine).splitlines())
    bundle = federation.root / "exchange" / "hostile"
    for name, text in HOSTILE.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(text.format(attempts=tried) if name.endswith("relay.py") else text)
    wait_until(lambda: connected(federation) == len(HOSPITALS))
    flower = (
        "exec",
        "--env=FLWR_HOME=/federation/flower/control",
        federation.container(COORDINATOR, "superlink"),
    )
    docker(*flower, "flwr", "run", "/exchange/hostile", "coordinator", "--format", "json")

    log = ("sh", "-c", "cat /federation/logs/hostile.log || true")
    wait_until(lambda: federation.inside(COORDINATOR, "superlink", *log).count("\n") == len(HOSPITALS), 120)
    assert federation.inside(COORDINATOR, "superlink", *log) == "ran {}\n" * len(HOSPITALS)


def connected(federation: Containers) -> int:
    """How many hospitals are."""
    return federation.inside(COORDINATOR, "superlink", "medseg-server", "sites", "/federation").count(
        "online"
    )
