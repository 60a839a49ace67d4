"""Whether the hospital's PACS answers, where site.toml names one."""

from collections.abc import Iterator

from medseg_client.findings import Finding, fault, ok
from medseg_client.site_folder import SiteFolder
from medseg_core.errors import MedsegError


def check_pacs(site: SiteFolder) -> Iterator[Finding]:
    """One query, for a study that nobody has."""
    if site.settings.pacs is None:
        return
    from medseg_client.pacs import pacs_of  # pydicom: only when needed

    try:
        pacs_of(site).require_answer()
    except MedsegError as error:
        remedy = "Compare [pacs] in site.toml with what the PACS administrator says."
        yield fault("PACS", "it does not answer as it should", remedy, detail=str(error))
    else:
        yield ok("PACS", "it answers queries")
