"""Fetching a public data set over a good, a bad and no network."""

import importlib.util
import re
import socket
import threading
from pathlib import Path

import pytest
from file_server import FileServer, serving
from tar_files import TOP, md5_of, published, tar_of

from medseg_core.errors import UnusableFolderError
from medseg_simulation import download, fetch
from medseg_simulation.errors import DownloadError
from medseg_simulation.fetch import data_set, progress_bar

ARCHIVE = published()
MD5 = md5_of(ARCHIVE)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    with serving(FileServer(ARCHIVE)) as running:
        yield running


def get(server, out, **options):
    return fetch.fetch("hippocampus", out, url=server.url, md5=MD5, **options)


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def interrupt(server, out, after):
    """A first attempt whose line breaks; returns its error."""
    server.cut_after = after
    with pytest.raises(DownloadError) as caught:
        get(server, out)
    return str(caught.value)


def test_the_known_address_and_checksum_are_those_of_monai():
    spec = importlib.util.find_spec("monai")  # not imported: that takes seconds
    assert spec is not None
    source = (Path(spec.submodule_search_locations[0]) / "apps" / "datasets.py").read_text("utf-8")
    known = data_set("hippocampus")
    assert f'"{known.folder}": "{known.url}"' in source
    assert f'"{known.folder}": "{known.md5}"' in source


def test_a_fetched_data_set_is_unpacked_and_nothing_else_is_left(server, tmp_path):
    out = tmp_path / "new" / "data"
    folder = get(server, out)
    assert folder == out / TOP
    assert names_in(out) == [f"{TOP}/dataset.json", f"{TOP}/imagesTr/hippocampus_001.nii.gz"]
    assert (folder / "imagesTr" / "hippocampus_001.nii.gz").read_bytes() == b"voxels" * 50_000


def test_a_data_set_that_is_there_is_not_fetched_again(server, tmp_path):
    get(server, tmp_path)
    assert get(server, tmp_path) == tmp_path / TOP
    assert len(server.requests) == 1


def test_progress_ends_with_every_byte(server, tmp_path):
    seen = []
    get(server, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, len(ARCHIVE))
    assert seen[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert seen == sorted(seen)


def test_the_progress_bar_takes_what_a_download_tells(capsys):
    with progress_bar("hippocampus") as progress:
        progress(0, None)
        progress(10, 10)
    assert "hippocampus" in capsys.readouterr().out


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    message = interrupt(server, tmp_path, 100_000)
    assert f"ended after 100000 of {len(ARCHIVE)} bytes" in message
    assert "it goes on from there" in message
    get(server, tmp_path)
    assert server.requests[1]["Range"] == "bytes=100000-"
    assert server.requests[1]["If-Range"] == '"one"'
    assert names_in(tmp_path / TOP) == ["dataset.json", "imagesTr/hippocampus_001.nii.gz"]


def test_an_interrupted_download_starts_over_where_the_server_knows_no_ranges(server, tmp_path):
    interrupt(server, tmp_path, 100_000)
    server.ranges = False
    assert (get(server, tmp_path) / "dataset.json").is_file()


def test_an_interrupted_download_starts_over_where_the_file_has_changed(server, tmp_path):
    server.content, server.etag = b"older" + ARCHIVE, '"zero"'
    interrupt(server, tmp_path, 100_000)
    server.content, server.etag = ARCHIVE, '"one"'
    assert (get(server, tmp_path) / "dataset.json").is_file()


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_an_interrupted_download_goes_on_without_a_usable_version(server, tmp_path, etag):
    server.etag = etag
    interrupt(server, tmp_path, 100_000)
    get(server, tmp_path)
    assert "If-Range" not in server.requests[1]
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_bytes_that_were_not_asked_for_are_not_appended(server, tmp_path):
    interrupt(server, tmp_path, 100_000)
    server.wrong_start = True
    assert (get(server, tmp_path) / "dataset.json").is_file()
    assert "Range" not in server.requests[-1]


def test_a_partial_file_longer_than_the_file_starts_over(server, tmp_path):
    (tmp_path / f"{TOP}.tar.part").write_bytes(b"?" * (len(ARCHIVE) + 1))
    assert (get(server, tmp_path) / "dataset.json").is_file()


def test_a_wrong_checksum_deletes_the_file_and_says_so(server, tmp_path):
    server.content = tar_of()
    with pytest.raises(DownloadError, match=rf"has MD5 .*, not {MD5}, and was deleted.*proxy's login page"):
        get(server, tmp_path)
    assert names_in(tmp_path) == []


def test_a_body_cut_short_without_a_length_fails_its_checksum(server, tmp_path):
    server.tells_length, server.cut_after = False, 1000
    with pytest.raises(DownloadError, match="was deleted"):
        get(server, tmp_path)
    assert (get(server, tmp_path) / "dataset.json").is_file()


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_refusal_of_the_server_is_named(server, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=rf"the server answered {status}.*Check the address"):
        get(server, tmp_path)


def test_without_a_network_the_message_says_how_to_go_on(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.tar"
    with pytest.raises(DownloadError) as caught:
        fetch.fetch("hippocampus", tmp_path, url=url)
    for part in (
        "no connection",
        "refused",
        url,
        data_set("hippocampus").md5,
        str(tmp_path / f"{TOP}.tar"),
        "phantoms",
    ):
        assert part in str(caught.value)


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    server.hold = threading.Event()
    with pytest.raises(DownloadError, match="timed out"):
        get(server, tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x.tar", "/etc/passwd", ""])
def test_only_web_addresses_are_fetched(tmp_path, url):
    with pytest.raises(DownloadError, match=r"only http and https|no connection"):
        download.download(url, tmp_path / "part", largest_bytes=10, progress=lambda *_: None)


@pytest.mark.parametrize("url", ["http://[", "http://127.0.0.1:port/", "http://", "http://a b/"])
def test_an_impossible_address_is_refused_in_words(tmp_path, url):
    with pytest.raises(DownloadError, match="no connection"):
        fetch.fetch("hippocampus", tmp_path, url=url)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x.tar"])
def test_a_redirection_leaves_the_web_for_nothing(server, tmp_path, target):
    server.redirect = target
    with pytest.raises(DownloadError, match=r"not allowed|unknown url type|answered 302"):
        get(server, tmp_path)


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_file_beyond_all_expectation_is_not_stored(server, tmp_path, monkeypatch, tells_length):
    monkeypatch.setattr(fetch, "LARGEST_BYTES", 1000)
    server.tells_length = tells_length
    with pytest.raises(DownloadError, match="at most 1000 were expected"):
        get(server, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1000


def test_an_archive_brought_by_hand_needs_no_network(tmp_path):
    (tmp_path / f"{TOP}.tar").write_bytes(ARCHIVE)
    folder = fetch.fetch("hippocampus", tmp_path, url="http://127.0.0.1:1/x", md5=MD5)
    assert (folder / "dataset.json").is_file()
    assert (tmp_path / f"{TOP}.tar").is_file()


def test_a_wrong_archive_brought_by_hand_is_refused_and_left(tmp_path):
    archive = tmp_path / f"{TOP}.tar"
    archive.write_bytes(ARCHIVE[:-1])
    with pytest.raises(
        DownloadError, match=f"{re.escape(str(archive))}: it has MD5 .*not yet whole.*Delete it"
    ):
        fetch.fetch("hippocampus", tmp_path, md5=MD5)
    assert archive.is_file()


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnusableFolderError, match="Choose another folder"):
        get(server, tmp_path / "file")
