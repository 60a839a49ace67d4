"""What goes wrong between a site and its PACS, as `PACS at ADDRESS: FAULT. REMEDY`.

No message holds a patient, an identifier, a login, or words that the other side chose.
"""

from medseg_core.errors import ConfigError, MedsegError

_SECTION = "Compare [pacs] in site.toml with what the PACS administrator says"


class PacsError(MedsegError):
    """The PACS cannot be used as asked."""

    def __init__(self, address: str, fault: str, remedy: str) -> None:
        self.address, self.fault, self.remedy = address, fault, remedy
        super().__init__(f"PACS at {address}: {fault}. {remedy}.")


class NoPacsError(ConfigError):
    """site.toml names no PACS."""

    def __init__(self) -> None:
        super().__init__(
            "site.toml names no PACS. Take the # from the lines of [pacs] there and fill them in, or give a folder."
        )


class PacsQueryError(ConfigError):
    """A query cannot be asked."""

    def __init__(self, fault: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"the query of the PACS {fault}. Write pacs:KEY=VALUE,KEY=VALUE with keys of {', '.join(known)}; * and ? "
            "stand for any letters and any one, dates are YYYYMMDD or YYYYMMDD-YYYYMMDD."
        )


class PacsUnreachableError(PacsError):
    """Nothing answers at the address, or not as a PACS does."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason, f"{_SECTION}, and ask whether a firewall stands between")


class PacsCertificateError(PacsError):
    """TLS cannot begin; `reason` is in our words or those of the TLS library."""

    def __init__(self, address: str, reason: str) -> None:
        remedy = (
            "Name the certificate of the hospital's authority as [pacs] authority, or correct the address"
        )
        super().__init__(address, f"no TLS connection: {reason}", remedy)


class PacsLoginError(PacsError):
    """The PACS wants to know who asks, or does not let them."""

    def __init__(self, address: str, status: int) -> None:
        fault, remedy = {
            401: (
                "it refuses the login (401)",
                "Write USER:PASSWORD as the only line into keys/pacs.login, mode 0600",
            ),
            403: ("this login may not do that (403)", "Ask the PACS administrator to allow it"),
        }[status]
        super().__init__(address, fault, remedy)


class PacsTitleError(PacsError):
    """An AE title is not the one that the PACS expects."""

    def __init__(self, address: str, title: str, *, is_ours: bool) -> None:
        if is_ours:
            fault = f"it does not know the AE title {title} that calls it"
            remedy = "Let the PACS administrator enter this machine with that title, or correct own_ae_title"
        else:
            fault = f"its AE title is not {title}"
            remedy = "Correct ae_title under [pacs.dimse] in site.toml"
        super().__init__(address, fault, remedy)


class PacsServiceError(PacsError):
    """The PACS does not offer what is asked of it; `service` is such as C-GET or WADO-RS."""

    def __init__(self, address: str, service: str, detail: str) -> None:
        remedy = f"Ask the PACS administrator whether {service} is allowed to this machine, or use the other protocol"
        super().__init__(address, f"{service} did not succeed ({detail})", remedy)


class PacsTransferError(PacsError):
    """A series did not come whole; nothing of it was kept."""

    def __init__(self, address: str, came: int, expected: int) -> None:
        super().__init__(
            address,
            f"the transfer ended after {came} of {expected} files of a series, none of which was kept",
            "Run the same command again; if it stays so, let the PACS administrator look at the series",
        )


class PacsStoreError(PacsError):
    """The PACS does not say of every file that it has it."""

    def __init__(self, address: str, missing: int, total: int, reason: str) -> None:
        super().__init__(
            address,
            f"{missing} of {total} files were not stored ({reason})",
            "Ask the PACS administrator whether this kind of object is accepted, then run the same command again",
        )


class NothingFoundError(PacsError):
    """No series answers the query."""

    def __init__(self, address: str) -> None:
        super().__init__(address, "no series answers the query", "Widen it, or correct its values")
