"""`[pacs]` of site.toml: where the hospital's PACS is, and how to talk to it. A login stands in keys/pacs.login."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from medseg_core.config import Section

AeTitle = Annotated[
    str, Field(pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")
]


def _as_url(url: str) -> str:
    """http[s]://HOST[:PORT][/PATH], without a slash at its end. Raises ValueError."""
    parts = urlsplit(url)
    is_plain = not (parts.username or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise ValueError('expected "https://HOST:PORT/PATH"')
    return url.rstrip("/")


def _as_host(text: str) -> str:
    """A name or an IP address. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?", text):
        raise ValueError("expected a name or an IP address")
    return text


class Tls(Section):
    """Whom to believe, and who we are; paths are relative to the site's folder."""

    authority: Path | None = None  # certificates of the hospital's authority, PEM; else those of the machine
    certificate: Path | None = None  # ours, PEM, where the PACS asks for one
    key: Path | None = None  # of that certificate, PEM

    @model_validator(mode="after")
    def _both_or_none(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class DicomWeb(Tls):
    """`[pacs.dicomweb]`: QIDO-RS, WADO-RS and STOW-RS under one address."""

    url: Annotated[str, AfterValidator(_as_url)]


class Dimse(Tls):
    """`[pacs.dimse]`: C-FIND, C-GET and C-STORE."""

    host: Annotated[str, AfterValidator(_as_host)]
    port: Annotated[int, Field(ge=1, le=65535)]
    ae_title: AeTitle  # of the PACS
    own_ae_title: AeTitle = "MEDSEG"
    tls: bool = False


class PacsSettings(Section):
    """`[pacs]`: one of the two ways."""

    dicomweb: DicomWeb | None = None
    dimse: Dimse | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "PacsSettings":
        if (self.dicomweb is None) == (self.dimse is None):
            raise ValueError("give either [pacs.dicomweb] or [pacs.dimse]")
        return self
