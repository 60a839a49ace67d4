"""The superlink's database is there before the superlink is, with pages that suit whole models; Flower takes it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from medseg_server.services import _make_state


def page_size(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("PRAGMA page_size").fetchone()[0])


@pytest.mark.filterwarnings("ignore:No path_separator")  # of alembic, in Flower
def test_a_new_database_has_large_pages_which_flower_keeps(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _make_state(path)
    SqlObjectStore(str(path)).initialize()
    assert page_size(path) == 65536


def test_a_database_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE old (number INTEGER)")
    _make_state(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM old").fetchone() == (0,)
    assert page_size(path) == 4096
