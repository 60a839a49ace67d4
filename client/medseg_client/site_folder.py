"""A hospital's folder: settings, keys, what it agreed to. Each process reads it at its edge.

site.toml              name, data, device, [policy]; for people to edit
keys/                  signing.key, node.key, tls.key: never leave; proxy.login and pacs.login, if those ask for one;
                       pseudonym.key: what makes case and patient ids of an import
NAME.request.json      for the coordinator
kit.json               from the coordinator
approved/SHA256.toml   experiments that this hospital agreed to train
models/RUN/            models that the coordinator published; approved.json: those agreed to
ledger/                what left, line by line, and its tensors for some days
import/                whom its pseudonyms stand for, and what it left out
state/, cache/         what the trainer remembers of runs; prepared images
run/socket/            the trainer's socket
run/hop/               that of the way out, where roles run under accounts of their own
run/ROLE/, logs/ROLE/  of what `up` keeps running as trainer, egress and relay: each writes in its own
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AfterValidator, Field

from medseg_client.pacs_settings import DicomWeb, PacsSettings
from medseg_client.policy import Policy
from medseg_core.config import (
    Experiment,
    Section,
    SiteLabels,
    Task,
    experiment_sha256,
    experiment_toml,
    parse_document,
    read_experiment,
    read_toml,
)
from medseg_core.errors import ExperimentFileError
from medseg_core.federation_errors import LoginFileError, NoSiteFolderError, NotJoinedError
from medseg_core.files import write_atomic
from medseg_core.wire.enrolment import SiteKit, read_kit, read_request
from medseg_core.wire.header import Name
from medseg_core.wire.signatures import public_key_of


class Role(StrEnum):
    """What is kept running at a site, each with files of its own; in the order in which they start."""

    TRAINER = "trainer"
    EGRESS = "egress"
    RELAY = "relay"


def _as_address(text: str) -> str:
    """An IP address. Raises ValueError."""
    return str(ipaddress.ip_address(text))


def _as_host(text: str) -> str:
    """An IP address or a name. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", text):
        return _as_address(text)
    return text


def _as_proxy(url: str) -> str:
    """http://HOST:PORT. Raises ValueError."""
    parts = urlsplit(url)
    if not parts.hostname or not parts.port or url.rstrip("/") != f"http://{parts.netloc}":
        raise ValueError('expected "http://HOST:PORT"')
    _as_host(parts.hostname)
    return url


Port = Annotated[int, Field(ge=1, le=65535)]
IpAddress = Annotated[str, AfterValidator(_as_address)]
ProxyUrl = Annotated[str, AfterValidator(_as_proxy)]
AccountName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$")]
Host = Annotated[str, AfterValidator(_as_host)]


class Accounts(Section):
    """[accounts]: who the roles run as where root starts them."""

    trainer: AccountName = "medseg-trainer"
    relay: AccountName = "medseg-relay"
    egress: AccountName = "medseg-egress"
    socket_group: AccountName = "medseg-socket"  # of trainer and relay: may use the trainer's socket


class SiteSettings(Section):
    """site.toml."""

    name: Name
    data: Path  # folder with a manifest.csv, or one of the layouts that medseg knows
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    egress_port: Port  # on loopback: the one way out
    node_port: Port  # on loopback: Flower's own
    egress_listen: IpAddress = "127.0.0.1"  # where the way out waits for the relay
    egress_host: Host = "127.0.0.1"  # where the relay finds it
    upstream_proxy: ProxyUrl | None = None  # through which alone the outside is reached
    labels: dict[Name, SiteLabels] = Field(
        default_factory=dict
    )  # by task, of label files that differ from it
    policy: Policy = Policy()
    pacs: PacsSettings | None = None  # no import from a PACS
    accounts: Accounts | None = None  # all roles run as whoever starts them

    def task_here(self, task: Task) -> Task:
        """A task in the values of this site's label files. Raises ExperimentFileError where the two do not fit."""
        try:
            return task.at_site(self.labels.get(task.name, SiteLabels()))
        except ValueError as error:
            raise ExperimentFileError("site.toml", [f"[labels.{task.name}] {error}"]) from None

    def to_toml(self) -> str:
        """site.toml with every key explained; a key without a value is a comment."""
        values = self.model_dump(mode="json")
        values |= values.pop("policy")
        text = (resources.files("medseg_client") / "site.toml").read_text(encoding="utf-8")
        values.pop("pacs")
        text = text.replace("@pacs@\n", _pacs_toml(self.pacs))
        named = values.pop("accounts")
        accounts = f"[accounts]\n{tomli_w.dumps(named or Accounts().model_dump())}"
        text = text.replace(
            "@accounts@\n", accounts if named else re.sub("(?m)^", "# ", accounts.rstrip()) + "\n"
        )
        for key, value in values.items():
            line = f"# {key} =" if value is None else f"{key} = {_toml(value)}"
            text = text.replace(f"{key} = @{key}@", line)
        return text


@dataclass(frozen=True)
class SiteFolder:
    """Where a hospital keeps what."""

    root: Path

    @property
    def settings(self) -> SiteSettings:
        """site.toml. Raises NoSiteFolderError, ExperimentFileError, LoginFileError."""
        path = self.root / "site.toml"
        if not path.is_file():
            raise NoSiteFolderError(self.root)
        document = read_toml(path)
        if "@" in str(document.get("upstream_proxy", "")):  # before anything could show it
            fault = "USER:PASSWORD belongs here, mode 0600, and not into upstream_proxy in site.toml"
            raise LoginFileError(self.proxy_login, fault)
        if "@" in str(document.get("pacs", "")):
            raise LoginFileError(
                self.pacs_login, "USER:PASSWORD belongs here, mode 0600, and not into site.toml"
            )
        return parse_document(SiteSettings, document, source=str(path))

    def key(self, name: str) -> Path:
        """`signing`, `node` or `tls`."""
        return self.root / "keys" / f"{name}.key"

    @property
    def proxy_login(self) -> Path:
        """Who we are to the hospital's HTTP proxy, if it asks."""
        return self.root / "keys" / "proxy.login"

    @property
    def pacs_login(self) -> Path:
        """Who we are to the hospital's PACS, if it asks: DICOMweb alone."""
        return self.root / "keys" / "pacs.login"

    @property
    def pseudonym_key(self) -> Path:
        """What turns patients into pseudonyms."""
        return self.root / "keys" / "pseudonym.key"

    @property
    def imports(self) -> Path:
        """Whom pseudonyms stand for, and what imports left out: for their owner alone."""
        return self.root / "import"

    @property
    def request(self) -> Path:
        """What the coordinator needs."""
        return self.root / f"{self.settings.name}.request.json"

    @property
    def kit_file(self) -> Path:
        """What the coordinator sent, once the hospital accepted it."""
        return self.root / "kit.json"

    @property
    def kit(self) -> SiteKit:
        """The federation that this site is part of. Raises NotJoinedError."""
        try:
            return read_kit(self.kit_file.read_bytes())
        except FileNotFoundError:
            raise NotJoinedError(self.root) from None

    @property
    def hop(self) -> Path:
        """Where the way out waits for the relay, if the two run under accounts of their own: a unix socket."""
        return (self.root / "run" / "hop" / "egress.sock").absolute()

    def run(self, role: Role) -> Path:
        """What a role needs while it runs."""
        return self.root / "run" / role

    def logs(self, role: Role) -> Path:
        """What a role's processes say."""
        return self.root / "logs" / role

    @property
    def local_certificate(self) -> Path:
        """Of the way out, for the hop that the relay takes to it."""
        return self.root / "pki" / "egress.crt"

    @property
    def local_key(self) -> Path:
        """Of that certificate."""
        return self.root / "pki" / "egress.key"

    @property
    def egress_log(self) -> Path:
        """Every request that went out."""
        return self.logs(Role.EGRESS) / "egress.access.log"

    @property
    def socket(self) -> Path:
        """The trainer's."""
        return (self.root / "run" / "socket" / "trainer.sock").absolute()

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What this site's signatures are checked with; the private half is for the trainer alone."""
        return public_key_of(read_request(self.request.read_bytes()).signing_key)

    @property
    def ledger(self) -> Path:
        """Folder of what left."""
        return self.root / "ledger"

    @property
    def approved(self) -> "ApprovedExperiments":
        """What this hospital agreed to train."""
        return ApprovedExperiments(self.root / "approved")


class ApprovedExperiments(Mapping[str, Experiment]):
    """Experiments by hash, one file each; what is approved while a trainer runs is known to it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Experiment] = {}  # one object each: a trainer recognises it

    def __getitem__(self, sha256: str) -> Experiment:
        path = self.folder / f"{sha256}.toml"
        if not path.is_file():
            raise KeyError(sha256)
        if sha256 not in self._read:
            experiment = read_experiment(path)
            if experiment_sha256(experiment) != sha256:
                raise KeyError(sha256)  # somebody changed the file: it is not what was approved
            self._read[sha256] = experiment
        return self._read[sha256]

    def add(self, experiment: Experiment) -> str:
        """Agree to train an experiment; returns its hash."""
        sha256 = experiment_sha256(experiment)
        write_atomic(self.folder / f"{sha256}.toml", experiment_toml(experiment).encode())
        return sha256

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.toml")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _pacs_toml(pacs: PacsSettings | None) -> str:
    """[pacs] as site.toml has it: without a PACS an example, as comments."""
    shown = pacs or PacsSettings(dicomweb=DicomWeb(url="https://pacs.hospital.example/dicom-web"))
    text = f"[pacs]\n{tomli_w.dumps({'pacs': shown.model_dump(mode='json', exclude_none=True)})}"
    return text if pacs else re.sub("(?m)^", "# ", text.rstrip()) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()
