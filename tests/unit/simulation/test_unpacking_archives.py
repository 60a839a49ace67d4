"""Unpacking archives that mean harm."""

import gzip
import tarfile

import pytest
from tar_files import TOP, file_member, published, special_member, tar_of

from medseg_core.errors import UnusableFolderError
from medseg_simulation.archive import unpack
from medseg_simulation.errors import DownloadError


def unpack_bytes(data, tmp_path, *, largest_bytes=1 << 20):
    archive, folder = tmp_path / "in.tar", tmp_path / "out" / TOP
    archive.write_bytes(data)
    unpack(archive, folder, largest_bytes=largest_bytes)
    return folder


def everything_in(tmp_path):
    return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        f"{TOP}/../../evil",
        f"{TOP}/a/../../../evil",
        "Task05/evil",
        "evil",
        f"{TOP}\\..\\evil",
        f"{TOP}/C:evil",
        f"{TOP}/new\nline",
        "",
    ],
)
def test_a_member_outside_its_folder_is_refused(tmp_path, name):
    with pytest.raises(DownloadError, match=r"does not lie in its folder.*Delete it and fetch it"):
        unpack_bytes(tar_of(file_member(f"{TOP}/dataset.json"), file_member(name)), tmp_path)
    assert everything_in(tmp_path) == ["in.tar", "out"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    link = special_member(f"{TOP}/imagesTr", kind, "/etc")
    with pytest.raises(DownloadError, match="neither a file nor a folder"):
        unpack_bytes(tar_of(link, file_member(f"{TOP}/imagesTr/evil")), tmp_path)
    assert everything_in(tmp_path) == ["in.tar", "out"]


def test_more_bytes_than_expected_are_refused(tmp_path):
    archive = tar_of(file_member(f"{TOP}/a", b"x" * 600), file_member(f"{TOP}/b", b"x" * 600))
    with pytest.raises(DownloadError, match="more than 1000 bytes"):
        unpack_bytes(archive, tmp_path, largest_bytes=1000)
    assert everything_in(tmp_path) == ["in.tar", "out"]


@pytest.mark.parametrize("second", [f"{TOP}/a", f"{TOP}/A", f"./{TOP}//a", TOP])
def test_a_member_that_comes_twice_is_refused(tmp_path, second):
    with pytest.raises(DownloadError, match="twice"):
        unpack_bytes(tar_of(file_member(f"{TOP}/a"), file_member(second)), tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"no tar" * 200, published()[:1000], gzip.compress(published(), mtime=0)],
    ids=["empty", "no tar", "torn", "compressed"],
)
def test_what_is_no_whole_tar_is_refused(tmp_path, data):
    with pytest.raises(DownloadError, match="not a whole tar archive"):
        unpack_bytes(data, tmp_path)
    assert everything_in(tmp_path) == ["in.tar", "out"]


def test_rights_and_owners_of_the_archive_are_ignored(tmp_path):
    info, data = file_member(f"{TOP}/dataset.json")
    info.mode, info.uid = 0o6777, 0
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    path = unpack_bytes(tar_of((info, data)), tmp_path) / "dataset.json"
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    mine = tmp_path / "out" / TOP / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("keep")
    with pytest.raises(UnusableFolderError, match="not empty"):
        unpack_bytes(published(), tmp_path)
    assert mine.read_text() == "keep"
