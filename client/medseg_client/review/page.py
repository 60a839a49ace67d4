"""The page itself: its HTML, style and script, which need nothing else."""

from collections.abc import Callable
from importlib import resources

from medseg_client.review.answers import Answer
from medseg_core.assessment.report_page import report_template
from medseg_core.version import version_text

PACKAGE = "medseg_client.review"
_KINDS = {
    "review.css": "text/css; charset=utf-8",
    "drawing.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "review.svg": "image/svg+xml",
}


def with_page(answer: Callable[[str], Answer]) -> Callable[[str], Answer]:
    """Answers to the addresses of the page and its files, and of `answer`'s to all others."""
    html = report_template("review.html.j2", PACKAGE).render(version=version_text())
    files = {"": Answer("text/html; charset=utf-8", html.encode())}
    for name, kind in _KINDS.items():
        files[name] = Answer(kind, resources.files(PACKAGE).joinpath(name).read_bytes())
    return lambda address: files.get(address) or answer(address)
