"""A real PACS: Orthanc with DICOMweb and DIMSE, in a folder of its own."""

import base64
import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from medseg_client.pacs import Pacs
from medseg_client.pacs_dimse import DimseLink
from medseg_client.pacs_settings import DicomWeb, Dimse
from medseg_client.pacs_web import DicomWebLink
from medseg_core.supervision import free_ports, nginx

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
TITLE, OWN_TITLE = "ARCHIVE", "MEDSEG"
LOGIN = "reader:of images"
PATIENCE_S = 30.0


def orthanc_program() -> str:
    """Where Orthanc is; the test is skipped where it is not installed."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or not PLUGIN.is_file():
        pytest.skip("Orthanc with DICOMweb is not installed: make orthanc")
    return program


@dataclass
class RealPacs:
    """An Orthanc that runs."""

    process: subprocess.Popen[bytes]
    web_port: int
    dicom_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}/dicom-web"

    def web_settings(self, **changes: Any) -> DicomWeb:
        return DicomWeb.model_validate({"url": self.url, **changes})

    def dimse_settings(self, **changes: Any) -> Dimse:
        asked = {"host": "127.0.0.1", "port": self.dicom_port, "ae_title": TITLE, "own_ae_title": OWN_TITLE}
        return Dimse.model_validate(asked | changes)

    def by_web(self, *, login: str | None = LOGIN, **changes: Any) -> Pacs:
        return Pacs(DicomWebLink(self.web_settings(**changes), Path(), login))

    def by_dimse(self, **changes: Any) -> Pacs:
        return Pacs(DimseLink(self.dimse_settings(**changes), Path()))

    def ask(self, path: str, *, method: str = "GET", data: bytes | None = None) -> Any:
        """Orthanc's own interface, past ours."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.web_port}{path}", data=data, method=method)
        request.add_header("Authorization", f"Basic {base64.b64encode(LOGIN.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            return json.loads(answer.read())

    def put(self, path: Path) -> None:
        """A file, past ours."""
        assert self.ask("/instances", method="POST", data=path.read_bytes())["Status"] in (
            "Success",
            "AlreadyStored",
        )

    def clear(self) -> None:
        for study in self.ask("/studies"):
            self.ask(f"/studies/{study}", method="DELETE")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)


@contextmanager
def running_pacs(folder: Path, **settings: Any) -> Iterator[RealPacs]:
    """An empty PACS while inside; `settings` are Orthanc's."""
    program = orthanc_program()
    web_port, dicom_port = free_ports(2)
    user, _, password = LOGIN.partition(":")
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "Name": "archive",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": web_port,
        "DicomPort": dicom_port,
        "DicomAet": TITLE,
        "DicomCheckCalledAet": True,
        "DicomModalities": {"medseg": {"AET": OWN_TITLE, "Host": "127.0.0.1", "Port": 104, "AllowGet": True}},
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {user: password},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "OverwriteInstances": True,
        "MaximumStorageCacheSize": 0,  # what is gone from disk is gone
        **settings,
    }
    (folder / "orthanc.json").write_text(json.dumps(document))
    log = folder / "orthanc.log"
    with log.open("wb") as out:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=out, stderr=out)
    try:
        wait_until(lambda: _listens(web_port) and _listens(dicom_port))
        yield RealPacs(process, web_port, dicom_port, log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(PATIENCE_S)


@contextmanager
def tls_in_front(folder: Path, port: int, certificate: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS before one that does not: Debian's Orthanc 1.10 crashes on its first HTTPS request."""
    (front,) = free_ports(1)
    folder.mkdir(parents=True)
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "front.conf").write_text(
        f"daemon off; pid {folder}/front.pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; {paths} client_max_body_size 0;\n"
        f"server {{ listen 127.0.0.1:{front} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};\n"
        f"location / {{ proxy_pass http://127.0.0.1:{port}; }} }} }}\n"
    )
    process = subprocess.Popen(nginx(folder / "front.conf", folder / "error.log"))
    try:
        wait_until(lambda: _listens(front))
        yield front
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _listens(port: int) -> bool:
    with socket.socket() as plain:
        plain.settimeout(1)
        return plain.connect_ex(("127.0.0.1", port)) == 0
