"""What a check of a site found: a line each, fit to be shown to anybody, and details for this hospital alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medseg_core import __version__
from medseg_core.version import commit

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `text` and `remedy` hold no identifier and no path; `detail` may: it stays."""

    topic: str
    state: State
    text: str
    remedy: str = ""
    detail: str = ""


def ok(topic: str, text: str) -> Finding:
    """All is well."""
    return Finding(topic, "ok", text)


def warning(topic: str, text: str, remedy: str) -> Finding:
    """Works, and could be better or will not work for ever."""
    return Finding(topic, "warning", text, remedy)


def fault(topic: str, text: str, remedy: str, detail: str = "") -> Finding:
    """The site cannot take part like this."""
    return Finding(topic, "fault", text, remedy, detail)


def shared_report(findings: Sequence[Finding]) -> dict[str, Any]:
    """What may be sent to the coordinator: no patient, case, path or name of a file in it."""
    return {
        "medseg": f"{__version__} ({commit()})",
        "is_fit": is_fit(findings),
        "findings": [
            {"topic": f.topic, "state": f.state, "text": f.text, "remedy": f.remedy} for f in findings
        ],
    }


def is_fit(findings: Sequence[Finding]) -> bool:
    """Nothing that was found keeps the site from taking part."""
    return all(finding.state != "fault" for finding in findings)
