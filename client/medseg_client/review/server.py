"""The page's server: on loopback, for whoever holds the address that was printed, and for nobody else.

The printed address holds a token that is good once: it leads to the page's own, secret address, which stands on no
command line and in no list of processes, and another token is printed. There is no cookie: those of 127.0.0.1 go to
every port of it, so to other users' programs, too.
"""

import secrets
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from medseg_client.review.answers import NOT_FOUND, Answer
from medseg_core.review_errors import PortInUseError

ADDRESS = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_USED = (
    b"This address was used already. The terminal shows the next one; the page that it opened still works.\n"
)
_TEXT = "text/plain; charset=utf-8"


class ReviewServer(ThreadingHTTPServer):
    """Waits on loopback; `answer` takes what follows the page's address. Raises PortInUseError."""

    daemon_threads = True

    def __init__(
        self, port: int, answer: Callable[[str], Answer], tell: Callable[[str], None] = lambda address: None
    ) -> None:
        self.answer, self._tell = answer, tell
        self._page, self._token, self._spent = secrets.token_urlsafe(24), "", ""
        self._lock = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "ports go from 0 to 65535"
            raise PortInUseError(port, reason) from None
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}
        self.new_address()

    def new_address(self) -> None:
        """Make the address that is good once, and tell it."""
        self._spent, self._token = self._token, secrets.token_urlsafe(24)
        self._tell(self.address)

    @property
    def address(self) -> str:
        """What to open in a browser, once."""
        return f"http://{ADDRESS}:{self.server_port}/{self._token}"

    def found(self, path: str) -> Answer | str:
        """The answer to a path; or, for the token, the path of the page."""
        first, slash, rest = path.removeprefix("/").partition("/")
        if slash and _same(first, self._page):
            return self.answer(rest)
        with self._lock:
            if not slash and _same(first, self._token):
                self.new_address()
                return f"/{self._page}/"
            if self._spent and _same(first, self._spent):
                return Answer(_TEXT, _USED, HTTPStatus.GONE)
        return NOT_FOUND

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"  # one connection for many slices
    timeout = 60.0  # seconds for which a connection may be silent
    disable_nagle_algorithm = (
        True  # an answer is two writes: the second would wait for the first to be acknowledged
    )

    def do_GET(self) -> None:
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            self._send(Answer(_TEXT, b"This name is not served here.\n", HTTPStatus.MISDIRECTED_REQUEST))
            return
        found = self.server.found(urlsplit(self.path).path)
        if isinstance(found, str):
            self._send(Answer(_TEXT, b"", HTTPStatus.SEE_OTHER), {"Location": found})
        else:
            self._send(found)

    def send_error(self, code: int, *_: object, **__: object) -> None:
        """What http.server refuses by itself, such as another method than GET: in a few words, and the end of it."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        self._send(
            Answer(_TEXT, f"{status.phrase}.\n".encode(), status), {"Connection": "close", "Allow": "GET"}
        )

    def _send(self, answer: Answer, more: dict[str, str] | None = None) -> None:
        self.send_response(answer.status)
        fields = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        for name, value in (fields | HEADERS | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def version_string(self) -> str:
        return "medseg"

    def log_message(self, *words: object) -> None:
        """Nothing: addresses are secret."""


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())
