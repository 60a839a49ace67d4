"""A real HTTP server on this machine that gives one file, well or badly."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server gives, and what it was asked for."""

    content: bytes
    url: str = ""
    status: int = 200
    ranges: bool = True
    etag: str = '"one"'
    tells_length: bool = True
    cut_after: int | None = None  # bytes of a body before the line breaks; once
    wrong_start: bool = False  # answers a range that was not asked for
    hold: threading.Event | None = None  # says nothing until this is set
    redirect: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serving(server: FileServer) -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, server)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        server.url = f"http://127.0.0.1:{httpd.server_port}/Task04_Hippocampus.tar"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            if server.hold:
                server.hold.set()
            httpd.shutdown()
            thread.join()


def answer(handler: BaseHTTPRequestHandler, server: FileServer) -> None:
    server.requests.append(dict(handler.headers))
    if server.hold:
        server.hold.wait(5)
        return
    if server.redirect:
        send(handler, 302, {"Location": server.redirect}, b"")
    elif server.status != 200:
        send(handler, server.status, {}, b"<html>no</html>")
    else:
        send_file(handler, server)


def send_file(handler: BaseHTTPRequestHandler, server: FileServer) -> None:
    headers = {"ETag": server.etag} if server.etag else {}
    start, size = asked_start(handler, server), len(server.content)
    if start is None:
        body, status = server.content, 200
    elif start >= size:
        return send(handler, 416, {"Content-Range": f"bytes */{size}"}, b"")
    else:
        start += 1 if server.wrong_start else 0
        body, status = server.content[start:], 206
        headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    if server.tells_length:
        headers["Content-Length"] = str(len(body))
    if server.cut_after is not None:
        body, server.cut_after = body[: server.cut_after], None
    return send(handler, status, headers, body)


def asked_start(handler: BaseHTTPRequestHandler, server: FileServer) -> int | None:
    asked = handler.headers.get("Range")
    if not asked or not server.ranges or handler.headers.get("If-Range", server.etag) != server.etag:
        return None
    return int(asked.removeprefix("bytes=").removesuffix("-"))


def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
