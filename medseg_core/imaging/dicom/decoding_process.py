"""Compressed pixels are decoded in a process of their own: over damaged bytes GDCM ends the process that it runs in.

Parent to child: a line of JSON, `[path, [frame, ...]]`. Child to parent: a line of JSON with number type and shape,
and the bytes of the frames; of no frame where the pixels cannot be decoded.
"""

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from medseg_core.dicom_errors import DamagedDicomError
from medseg_core.imaging.dicom.headers import decoding, read_whole

_LIMIT_S = 120  # for one file: a thousand frames take a tenth of it
_LIMIT_BYTES = 2**33  # of address space: a header of 100 bytes can ask for more
Stored = npt.NDArray[np.number]


class DecodingProcess:
    """Started when first asked, again after a crash; ended by `close`."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, path: Path, indices: Sequence[int], fault: str) -> Stored:
        """Frames of a file `(n, row, column)`, as stored. Raises DamagedDicomError with `fault`."""
        child = self._started()
        assert child.stdin is not None, "it is piped"
        assert child.stdout is not None, "it is piped"
        watch = Timer(_LIMIT_S, child.kill)
        watch.start()
        try:
            child.stdin.write(f"{json.dumps([str(path), list(indices)])}\n".encode())
            child.stdin.flush()
            kind, shape = json.loads(child.stdout.readline())
            data = child.stdout.read(math.prod(shape) * np.dtype(kind).itemsize)
            frames: Stored = np.frombuffer(data, kind).reshape(shape)
        except (OSError, ValueError):  # it crashed, or was ended: nothing came, or only a part
            self.close()
            raise DamagedDicomError(path, fault) from None
        finally:
            watch.cancel()
        if not len(frames):
            raise DamagedDicomError(path, fault)
        return frames

    def close(self) -> None:
        """End the process, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            program = [sys.executable, "-P", "-m", "medseg_core.imaging.dicom.decoding_process"]
            self._child = subprocess.Popen(  # noqa: S603
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._child


def decoded(dataset: Dataset, path: Path, indices: Sequence[int], fault: str) -> Iterator[Stored]:
    """Frames of a file, decoded in this process. Raises DamagedDicomError with `fault`."""
    with decoding(path, fault):
        yield from iter_pixels(dataset, raw=True, indices=list(indices))


def _serve() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(os.dup(1), "wb") as answers, Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # decoders print
        for line in sys.stdin.buffer:
            path, indices = json.loads(line)
            frames = np.empty((0, 0, 0))
            with suppress(DamagedDicomError):
                frames = np.stack(list(decoded(read_whole(Path(path)), Path(path), indices, "")))
            answers.write(f"{json.dumps([frames.dtype.str, frames.shape])}\n".encode())
            answers.write(frames.tobytes())
            answers.flush()


if __name__ == "__main__":
    _serve()
