"""Tar archives for tests, well-formed and hostile."""

import hashlib
import io
import tarfile

TOP = "Task04_Hippocampus"


def file_member(name, data=b"x") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def special_member(name, kind, target="") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def tar_of(*members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def published(payload=b"voxels" * 50_000) -> bytes:
    """An archive such as the publisher's, with a macOS companion file."""
    return tar_of(
        special_member(TOP, tarfile.DIRTYPE),
        file_member(f"{TOP}/dataset.json", b"{}"),
        file_member(f"{TOP}/imagesTr/hippocampus_001.nii.gz", payload),
        file_member(f"{TOP}/imagesTr/._hippocampus_001.nii.gz", b"mac"),
    )


def md5_of(data) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
