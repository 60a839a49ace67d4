"""What becomes of sites after they are enrolled: seen, given new certificates, shut out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medseg_core.federation_errors import FlowerError, NotEnrolledError, UnknownSiteError
from medseg_core.files import is_in_use, write_atomic
from medseg_server.enrolling import certify, certify_servers
from medseg_server.flower_control import FlowerControl
from medseg_server.gateway import reload_gateway, write_admission
from medseg_server.ledgers import Head, newest_heads
from medseg_server.server_folder import Enrolled, ServerFolder


@dataclass(frozen=True)
class SiteStanding:
    """How a site stands with the federation."""

    site: str
    status: str  # enrolled, revoked
    fingerprint: str
    expires_at: str | None  # of its newest valid certificate, ISO 8601
    connection: str | None  # online, offline, registered (never seen yet); None: `up` does not run
    ledger: Head | None = None  # newest line of its ledger that an answer named

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        return asdict(self)


def standings(folder: ServerFolder, connections: Mapping[str, str] | None) -> list[SiteStanding]:
    """Every site of the roster; `connections` are Flower's words for the nodes of sites, None if nobody can say."""
    heads = newest_heads(folder)
    return [
        SiteStanding(
            site=site,
            status=entry.status,
            fingerprint=entry.fingerprint,
            expires_at=max((c.expires_at for c in entry.valid_certificates), default=None),
            connection=None if connections is None else connections.get(site, "offline"),
            ledger=heads.get(site),
        )
        for site, entry in sorted(folder.roster().items())
    ]


def connections(folder: ServerFolder, control: FlowerControl) -> dict[str, str] | None:
    """Flower's word for the connection of each enrolled site; None if `up` does not run, or not yet."""
    if not is_in_use(folder.root / "run" / "superlink"):
        return None
    try:
        nodes = control.nodes()
    except FlowerError:
        return None
    roster = folder.roster().values()
    return {e.site: nodes[e.node_key].status for e in roster if e.node_key in nodes}


def revoke(folder: ServerFolder, site: str) -> Enrolled:
    """Shut a site out, with every certificate that it ever had; a running gateway knows at once.

    Flower's registration goes as soon as `up` looks at the roster. Raises UnknownSiteError.
    """
    with folder.changing_roster() as roster:
        entry = _entry(roster, site)
        changes = {"status": "revoked", "certificates": entry.all_revoked}
        roster[site] = entry.model_copy(update=changes)
    write_admission(folder)
    reload_gateway(folder)
    return roster[site]


def renew(folder: ServerFolder, site: str) -> str:
    """A new certificate for the keys that a site has, in a new kit; returns when it expires.

    The one before is good until its own end: it is for the same keys, and the site is not interrupted.
    Raises UnknownSiteError, NotEnrolledError.
    """
    with folder.changing_roster() as roster:
        entry = _entry(roster, site)
        if entry.status == "revoked":
            raise NotEnrolledError(site)
        kit, roster[site] = certify(folder, entry)
    write_atomic(folder.kit(site), kit.to_json())
    write_admission(folder)
    reload_gateway(folder)
    return roster[site].certificates[-1].expires_at


def renew_servers(folder: ServerFolder) -> dict[str, str]:
    """New certificates for gateway and superlink, which `up` has them read; returns when each expires."""
    return certify_servers(folder, folder.settings)


def _entry(roster: Mapping[str, Enrolled], site: str) -> Enrolled:
    """The line of a site. Raises UnknownSiteError."""
    if site not in roster:
        raise UnknownSiteError(site, tuple(roster))
    return roster[site]
