"""The page on security names tests, by file or by function; each is there, and no threat is without one."""

import re

from documents import ROOT

TEXT = (ROOT / "docs/security.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    files = list((ROOT / "tests").rglob("test_*.py"))
    functions = (
        re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE) for path in files
    )
    there = {path.stem for path in files}.union(*functions)

    assert named
    assert sorted(named - there) == []


def test_every_threat_has_a_test():
    threats = [
        line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| who | ")
    ]

    assert [row for row in threats if not row.startswith("| ---") and "`test_" not in row] == []
    assert len(threats) > 10
