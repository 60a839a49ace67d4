"""The page on security names tests; each is there."""

import re

from documents import ROOT

PAGE = ROOT / "docs/security.md"


def test_every_test_that_the_page_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}

    assert named
    assert sorted(named - there) == []


def test_every_threat_has_a_test():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    threats = [row for row in rows if not row.startswith(("| who could", "| ---"))]

    assert threats
    assert [row for row in threats if "`test_" not in row] == []
