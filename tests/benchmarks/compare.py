"""Benchmarks that have an aim, one after the other, as one table: `make benchmark [DATA=FOLDER]`.

    python tests/benchmarks/compare.py --out FOLDER [--data FOLDER] [--only SCRIPT ..]

Writes `benchmark.md` and `benchmark.json` into FOLDER, and `SCRIPT.log` with what each script printed. The last line is
the summary. A script is run as anyone runs it alone; the last line of its output is a JSON document
`{"rows": [{"what": str, "value": number, "unit": str, "aim": str, "reached": bool}]}`, with other keys as it likes. One
that fails gives a row that does not reach its aim. `--data` is a folder that holds the data set `hippocampus`; what
needs it is skipped without it, in a row that says so. `growth.py` wants memory for models of 100 M parameters. One more
has an aim and is run alone: `partial_labels.py`, whose nine runs take hours.
"""

# ruff: noqa: T201
import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = {  # options; {data}, {out} and {new}, a folder that is not there yet, are filled in
    "simulation_speed.py": (),
    "local_training.py": ("{data}/hippocampus", "--cache", "{out}/cache"),
    "nnunet.py": ("{data}/hippocampus", "--out", "{out}/nnunet"),
    "aggregation.py": (),
    "server_memory.py": (),
    "sliding_window.py": (),
    "data_wait.py": ("{data}/hippocampus", "--cache", "{out}/cache"),
    "round_overhead.py": ("--out", "{new}"),
    "growth.py": ("--out", "{new}"),
    "codecs.py": ("{data}/hippocampus", "--out", "{out}/codecs"),
}


@dataclass(frozen=True)
class Row:
    """One measured value beside its aim; `value` is None where nothing could be measured."""

    what: str
    value: float | None
    unit: str
    aim: str
    reached: bool
    script: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for script in options.only:
        print(f"{script} ...", flush=True)
        rows += measured(script, options.data, options.out)
    table = markdown(rows)
    (options.out / "benchmark.md").write_text(table)
    (options.out / "benchmark.json").write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
    print(table)
    print(summary(rows))


def measured(script: str, data: Path | None, out: Path) -> list[Row]:
    """The rows of one script, run in a process of its own."""
    words = SCRIPTS[script]
    if data is None and any("{data}" in word for word in words):
        return [unmeasured(script, "not measured: give the folder of the data")]
    log = out / f"{script}.log"
    new = out / f"{Path(script).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    command = [sys.executable, HERE / script, *(word.format(data=data, out=out, new=new) for word in words)]
    with log.open("w") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment()).returncode
    found = rows_of(script, log.read_text()) if status == 0 else None
    return found or [unmeasured(script, f"not measured: see {log.name}")]


def environment() -> dict[str, str]:
    """Ours, with output line by line, so that the JSON document stays last in the log."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def rows_of(script: str, output: str) -> list[Row] | None:
    """The rows in the last line, or None where it is no such document."""
    try:
        rows = json.loads(output.splitlines()[-1])["rows"]
        return [Row(**row, script=script) for row in rows]
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def unmeasured(script: str, why: str) -> Row:
    """The row of a script that gave none."""
    return Row(why, None, "", "", reached=False, script=script)


def markdown(rows: Sequence[Row]) -> str:
    """One table; a script's rows are together."""
    lines = ["| script | what | value | aim | reached |", "| --- | --- | ---: | --- | --- |"]
    for row in rows:
        value = "" if row.value is None else f"{row.value:.3g} {row.unit}".strip()
        lines.append(
            f"| {row.script} | {row.what} | {value} | {row.aim} | {'yes' if row.reached else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """The table in one line: how many rows reach their aim, and which do not."""
    missed = [f"{row.script} ({row.what})" for row in rows if not row.reached]
    short = f"benchmark: {len(rows) - len(missed)} of {len(rows)} reach their aim"
    return f"{short}; not: {', '.join(missed)}" if missed else short


if __name__ == "__main__":
    main()
