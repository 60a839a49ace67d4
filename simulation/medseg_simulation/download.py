"""One file over HTTP that survives a broken line. In: an address. Out: the file, as far as the server gave it.

What was received stays in the partial file; the next call asks only for the rest. Whether the whole is right is
for the caller's checksum.
"""

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import medseg_core
from medseg_simulation.errors import DownloadError

Progress = Callable[[int, int | None], None]  # bytes so far; bytes in all, where the server tells

TIMEOUT_S = 30.0  # without a byte from the server
BLOCK_BYTES = 256 * 1024
AGAIN = "Run the command again"
_NUMBER = "[0-9]{1,18}"


@dataclass(frozen=True)
class _Body:
    """What a server answered: bytes of the file from `start` on, of `total` in all."""

    response: http.client.HTTPResponse
    start: int
    total: int | None
    version: str  # what If-Range may name: an ETag or a date; empty if the server gave none


def download(url: str, partial: Path, *, largest_bytes: int, progress: Progress) -> None:
    """Complete `partial` from `url`, continuing what an earlier call left if the server still has that version.

    Beside it, `partial` with `.version` names the version. Raises DownloadError, keeping what was received.
    """
    if not re.match("https?://", url, re.IGNORECASE):
        raise DownloadError(url, "only http and https addresses are fetched", "Give another address.")
    version = partial.with_name(f"{partial.name}.version")
    held = partial.stat().st_size if partial.is_file() else 0
    body = _open(url, held, version.read_text("utf-8") if version.is_file() else "")
    with closing(body.response):
        _refuse_size(url, body.total, largest_bytes)
        version.write_text(body.version, "utf-8")
        received = _receive(url, body, partial, largest_bytes=largest_bytes, progress=progress)
    if body.total is not None and received < body.total:
        fault = f"the connection ended after {received} of {body.total} bytes"
        raise DownloadError(url, fault, f"{AGAIN}: it goes on from there.")
    version.unlink()


def _receive(url: str, body: _Body, partial: Path, *, largest_bytes: int, progress: Progress) -> int:
    """Append the body to the partial file; returns the bytes that it now holds."""
    received = body.start
    with partial.open("ab" if body.start else "wb") as file:
        progress(received, body.total)
        for block in _blocks(url, body.response):
            received += len(block)
            _refuse_size(url, received, largest_bytes)
            file.write(block)
            progress(received, body.total)
    return received


def _blocks(url: str, response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body in blocks; faults of the line become a DownloadError."""
    try:
        while block := response.read(BLOCK_BYTES):
            yield block
    except (OSError, http.client.HTTPException) as error:
        fault = f"the connection broke ({_reason(error)})"
        raise DownloadError(url, fault, f"{AGAIN}: it goes on from there.") from None


def _open(url: str, held: int, version: str) -> _Body:
    """Ask for the file from byte `held` on. Starts at 0 where the server cannot continue, or has another version."""
    headers = {"User-Agent": f"medseg/{medseg_core.__version__}", "Accept-Encoding": "identity"}
    if held:
        headers |= {"Range": f"bytes={held}-"} | ({"If-Range": version} if version else {})
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  # the scheme was checked
        response = _opener().open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if held and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open(url, 0, "")
        fault = f"the server answered {error.code} {error.reason}"
        raise DownloadError(url, fault, "Check the address, or try again later.") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        remedy = "Check the network, and HTTPS_PROXY where there is a proxy, then run the command again."
        raise DownloadError(url, f"no connection ({_reason(error)})", remedy) from None
    body = _body(response)
    if body.start in (0, held):
        return body
    response.close()  # bytes that were not asked for
    return _open(url, 0, "")


def _body(response: http.client.HTTPResponse) -> _Body:
    """The answer's range, size and version, each only if it is well formed."""
    tag = re.fullmatch(
        r'"[!-~]{1,128}"', response.headers.get("ETag", "")
    )  # not weak: equal bytes, not equal sense
    date = re.fullmatch(r"[ -~]{1,64}", response.headers.get("Last-Modified", ""))
    version = (tag or date or [""])[0]
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        span = re.fullmatch(
            rf"bytes ({_NUMBER})-{_NUMBER}/({_NUMBER}|\*)", response.headers.get("Content-Range", "")
        )
        start, total = (int(span[1]), span[2]) if span else (-1, "*")
        return _Body(response, start, None if total == "*" else int(total), version)
    length = re.fullmatch(_NUMBER, response.headers.get("Content-Length", ""))
    return _Body(response, 0, int(length[0]) if length else None, version)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS through the system's proxy settings, redirects included; no other scheme, not even by redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _refuse_size(url: str, size: int | None, largest_bytes: int) -> None:
    if size is not None and size > largest_bytes:
        fault = f"the file has {size} bytes or more, and at most {largest_bytes} were expected"
        raise DownloadError(url, fault, "This is another file: check the address.")


def _reason(error: Exception) -> str:
    """The cause in a few words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
