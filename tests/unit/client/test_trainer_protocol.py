"""The code beside trainer.proto is what protoc makes of it."""

from pathlib import Path

from grpc_tools import protoc

import medseg_client


def test_the_generated_code_is_that_of_the_protocol(tmp_path: Path) -> None:
    root = Path(medseg_client.__file__).parents[1]
    proto = "medseg_client/protocol/trainer.proto"
    done = protoc.main(
        ["", f"--proto_path={root}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", proto]
    )
    assert done == 0
    for made in (tmp_path / "medseg_client/protocol").glob("*.py"):
        assert made.read_text() == (root / "medseg_client/protocol" / made.name).read_text(), "make proto"
