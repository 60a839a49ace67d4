"""The table of the sweep file in the guide: every key."""

import pytest
from documents import GUIDE, blocks

from medseg_simulation.sweep.plan import Entry, Setting, Sweep, Tuning, read_sweep, sweep_names

SECTION = GUIDE.read_text(encoding="utf-8").split("Compare algorithms: sweeps")[1].split("\n## ")[0]
KEYS = [key for model in (Sweep, Setting, Entry, Tuning) for key in model.model_fields]


@pytest.mark.parametrize("key", [*dict.fromkeys(KEYS), *sweep_names()])
def test_the_guide_names_the_key_or_sweep(key):
    assert f"`{key}`" in SECTION or f"`{key} = " in SECTION


def test_the_sweep_of_the_guide_is_one(tmp_path):
    for block in blocks(GUIDE, "toml"):
        (tmp_path / block.lines[0].removeprefix("# ")).write_text("\n".join(block.lines))

    assert read_sweep(str(tmp_path / "compare.toml")).sweep.reference == "fedavg"
