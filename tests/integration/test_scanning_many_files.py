"""A folder of thousands of DICOM files is scanned without holding their pixels."""

import psutil
import pytest
from dicom_files import make_slice, save

from medseg_core.imaging.dicom.scan import scan


@pytest.mark.slow
def test_two_thousand_files_are_scanned_in_bounded_memory(tmp_path):
    n, size = 2000, 2**15
    template = make_slice(0, SOPInstanceUID="1.2.3.4.10000", PixelData=bytes(size), Rows=128, Columns=128)
    save(template, tmp_path / "0.dcm")
    data = (tmp_path / "0.dcm").read_bytes()
    for k in range(1, n):
        (tmp_path / f"{k}.dcm").write_bytes(data.replace(b"1.2.3.4.10000", f"1.2.3.4.{10000 + k}".encode()))
    process, held_bytes = psutil.Process(), []

    def look(done, total):
        if done % 100 == 0:
            held_bytes.append(process.memory_info().rss)

    (series,) = scan(tmp_path, progress=look).series

    assert len(series.files) == n
    assert max(held_bytes) - held_bytes[0] < 8 * 2**20  # the files hold 62 MiB of pixels
