"""The coordinator's folder: settings, keys, roster, runs. Each process reads it at its edge.

server.toml            name, address, ports; for people to edit
keys/signing.key       signs every request; its fingerprint is what hospitals compare
authority/             certificate authority of the federation
gateway/               all that the gateway reads: its certificate and key, its configuration, who may come in
superlink/             certificate and key of the superlink
roster.json            who may take part, and every certificate that was given out
kits/                  what was sent to each site
runs/NAME/             one run each
wanted/NAME            empty: `up` has to look at this run
flower/                state of Flower's processes
logs/, run/            of the processes that `up` keeps running
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medseg_core.config import Section, parse_document, read_toml
from medseg_core.federation_errors import NoServerFolderError, RosterError
from medseg_core.files import sole_use, write_atomic
from medseg_core.wire.enrolment import Address, Versions, fingerprint_of_keys
from medseg_core.wire.header import Name
from medseg_core.wire.signatures import load_key, public_key_of
from medseg_core.wire.versions import SPOKEN
from medseg_server.requests import Coordinator

Port = Annotated[int, Field(ge=1, le=65535)]
LOOPBACK = ("localhost", "127.0.0.1")
Role = Literal["superlink", "superexec", "gateway"]  # what `up` keeps running
ROLES: tuple[Role, ...] = get_args(Role)


class ServerSettings(Section):
    """server.toml."""

    name: Name
    address: Address  # where hospitals reach the gateway: HOST:PORT
    listen: Address | None = (
        None  # where the gateway listens; none: on every interface, at the port of `address`
    )
    superlink_host: str = "127.0.0.1"  # where gateway and superexec reach the superlink
    superlink_port: Port

    @property
    def superlink_listens_on(self) -> str:
        """Loopback, unless gateway and superexec reach the superlink over a network of their own."""
        return "127.0.0.1" if self.superlink_host in LOOPBACK else "0.0.0.0"  # noqa: S104


class Certificate(BaseModel):
    """A certificate that a site was given. It stays in the roster for good: a forgotten one could not be revoked."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    serial: Annotated[str, Field(pattern=r"^[0-9]{1,60}$")]  # decimal
    expires_at: str  # ISO 8601
    status: Literal["valid", "revoked"] = "valid"


class Enrolled(BaseModel):
    """One site in the roster."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    site: Name
    signing_key: str
    node_key: str  # OpenSSH
    certificate_request: str  # PEM: holds the public key that certificates are for
    wire_versions: Versions = SPOKEN
    certificates: tuple[Certificate, ...]  # oldest first
    retired_node_keys: tuple[str, ...] = ()  # Flower accepts none of them again
    status: Literal["enrolled", "revoked"] = "enrolled"
    enrolled_at: str  # ISO 8601

    @property
    def fingerprint(self) -> str:
        """What was compared when the site was enrolled."""
        return fingerprint_of_keys(self.signing_key, self.node_key, self.certificate_request)

    @property
    def valid_certificates(self) -> tuple[Certificate, ...]:
        """Those that are not revoked; some may have expired."""
        return tuple(c for c in self.certificates if c.status == "valid")

    @property
    def all_revoked(self) -> tuple[Certificate, ...]:
        """Every certificate of the site, revoked."""
        return tuple(c.model_copy(update={"status": "revoked"}) for c in self.certificates)


_ROSTER = TypeAdapter(list[Enrolled])


@dataclass(frozen=True)
class ServerFolder:
    """Where a coordinator keeps what."""

    root: Path

    @property
    def settings(self) -> ServerSettings:
        """server.toml. Raises NoServerFolderError, ExperimentFileError."""
        path = self.root / "server.toml"
        if not path.is_file():
            raise NoServerFolderError(self.root)
        return parse_document(ServerSettings, read_toml(path), source=str(path))

    @property
    def signing_key(self) -> Path:
        """What every request is signed with."""
        return self.root / "keys" / "signing.key"

    def authority(self, suffix: str) -> Path:
        """`crt` or `key` of the federation's authority."""
        return self.root / "authority" / f"authority.{suffix}"

    @property
    def authority_for_superexec(self) -> Path:
        """A copy of the authority's certificate: the folder with the authority's key is not for superexec to see."""
        return self.root / "flower" / "authority.crt"

    def for_gateway(self, name: str) -> Path:
        """A file that the gateway reads; it needs none outside this folder."""
        return self.root / "gateway" / name

    @property
    def revocations(self) -> Path:
        """The list of revoked certificates, signed by the authority."""
        return self.for_gateway("authority.crl")

    def server(self, name: str, suffix: str) -> Path:
        """`crt` or `key` of `gateway` or `superlink`."""
        return self.root / name / f"{name}.{suffix}"

    def kit(self, site: str) -> Path:
        """The kit of a site."""
        return self.root / "kits" / f"{site}.kit.json"

    def run(self, name: str) -> Path:
        """Folder of a run."""
        return self.root / "runs" / name

    @property
    def wanted(self) -> Path:
        """Notes of runs for `up` to look at."""
        return self.root / "wanted"

    def roster(self) -> dict[str, Enrolled]:
        """Every site that was ever enrolled, by name. Raises RosterError."""
        path = self.root / "roster.json"
        try:
            entries = _ROSTER.validate_json(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError):
            raise RosterError(path) from None
        return {entry.site: entry for entry in entries}

    def write_roster(self, roster: Mapping[str, Enrolled]) -> None:
        """Replace the roster."""
        entries = [entry.model_dump() for _, entry in sorted(roster.items())]
        write_atomic(self.root / "roster.json", (json.dumps(entries, indent=2) + "\n").encode())

    @contextlib.contextmanager
    def changing_roster(self) -> Iterator[dict[str, Enrolled]]:
        """The roster to change, written at the end; one command at a time, so that no change is lost.

        Raises RosterError, BusyFolderError.
        """
        with sole_use(self.root / "authority"):
            roster = self.roster()
            yield roster
            self.write_roster(roster)

    def enrolled(self) -> dict[str, Enrolled]:
        """Sites that may take part now."""
        return {site: entry for site, entry in self.roster().items() if entry.status == "enrolled"}

    def coordinator(self) -> Coordinator:
        """Who asks, and whose replies count."""
        enrolled = self.enrolled()
        keys = {site: public_key_of(entry.signing_key) for site, entry in enrolled.items()}
        common = {site: set(entry.wire_versions) & set(SPOKEN) for site, entry in enrolled.items()}
        versions = {
            site: max(spoken) for site, spoken in common.items() if spoken
        }  # others refuse ours, by name
        return Coordinator(load_key(self.signing_key), keys, versions)
