"""A federation and its sites in folders, as far as enrolment makes them; nothing runs."""

from pathlib import Path

from medseg_client.joining import begin
from medseg_client.site_folder import SiteFolder, SiteSettings
from medseg_core.wire.enrolment import SiteRequest
from medseg_server.enrolling import begin as found
from medseg_server.server_folder import ServerFolder, ServerSettings


def make_server(
    folder: Path, *, address: str = "fed.example.org:8443", superlink_port: int = 18443
) -> ServerFolder:
    server = ServerFolder(folder)
    found(server, ServerSettings(name="trial", address=address, superlink_port=superlink_port))
    return server


def make_site(folder: Path, name: str = "north") -> tuple[SiteFolder, SiteRequest]:
    site = SiteFolder(folder)
    settings = SiteSettings(name=name, data=Path("/images"), egress_port=1, node_port=2)
    return site, begin(site, settings)
