"""How tests/data/lake-0.1.tar.zst was made: a small lake of version 0.1, and what 0.1 answered.

    python tests/support/first_lake.py .venv-0.1/bin/meterlake tests/data/lake-0.1.tar.zst

The command is that of an installed meterlake 0.1. The test that upgrades the lake is
tests/pipeline/test_upgrade.py; the lake is not made again.
"""

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

QUESTIONS = {
    "readings": "SELECT * FROM readings ORDER BY ALL",
    "staging": "SELECT * FROM staging ORDER BY ALL",
    "quarantine": "SELECT * FROM quarantine ORDER BY ALL",
    "late_arrivals": "SELECT * FROM late_arrivals ORDER BY ALL",
    "consumption_daily": "SELECT * FROM consumption_daily ORDER BY ALL",
    "consumption_weekly": "SELECT * FROM consumption_weekly ORDER BY ALL",
    "consumption_monthly": "SELECT * FROM consumption_monthly ORDER BY ALL",
    "weather": "SELECT * FROM weather ORDER BY ALL",
    "meter_topology": "SELECT * FROM meter_topology ORDER BY ALL",
    "volt_var": "SELECT * FROM volt_var ORDER BY ALL",
    "transformer_load": "SELECT * FROM transformer_load ORDER BY ALL",
    "outages": "SELECT * FROM outages ORDER BY ALL",
    "forecasts": "SELECT * FROM forecasts ORDER BY ALL",
}
PLACE = "47.61,-122.33"
SETTINGS = {
    **os.environ,
    "METERLAKE_TIMEZONE": "America/Los_Angeles",
    "METERLAKE_ML__TRAIN_ROWS": "1000",
}
FIRST, LAST, END = "2024-01-01", "2024-01-23", "2024-01-24"  # a model needs three weeks
OUT_OF_POWER = (f"{LAST} 09", f"{LAST} 10")


def main(command: str, out: str) -> None:
    """Make the lake, ask it, and pack both."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lake, asked = work / "packed" / "lake", work / "packed" / "answers"
        asked.mkdir(parents=True)

        def run(*args: str) -> str:
            given = [] if args[0] == "simulate" else ["--lake", str(lake)]
            done = subprocess.run(
                [command, *args, *given], cwd=work, check=True, env=SETTINGS, stdout=subprocess.PIPE
            )
            return done.stdout.decode()

        run("simulate", "topology", "--meters", "4", "--near", PLACE, "--out", "topology")
        run(
            "simulate", "readings", "--topology", "topology", "--interval-minutes", "60",
            "--start", FIRST, "--end", END, "--out", "inbox",
        )  # fmt: skip
        run(
            "simulate", "weather", "--near", PLACE,
            "--start", FIRST, "--end", END, "--out", "weather",
        )  # fmt: skip
        rows = [row for path in sorted((work / "inbox").iterdir()) for row in _rows(path)]
        header, *rows = dict.fromkeys(rows)
        first, last = ([r for r in rows if (r >= LAST) == is_last] for is_last in (False, True))
        _write(work / "first.csv.gz", [header, *first])
        _write(work / "last.csv", [header, *last, "damaged,row"])
        _write(work / "last-again.csv.gz", [header, *last, "damaged,row"])  # 0.1 stores it twice
        _write(work / "late.csv.gz", [header, *(_corrected(row) for row in last[:8])])
        run("dataflow", "run", "topology", "--source", "topology", "--at", FIRST)
        run("dataflow", "run", "weather", "--source", "weather", "--from", FIRST)
        run("ingest", "first.csv.gz", "last.csv")
        run("integrate")
        run("ingest", "last-again.csv.gz")
        run("ingest", "late.csv.gz")
        run("integrate")
        run("grid", "update")
        run("train")
        run("forecast", "--all")
        for question, sql in QUESTIONS.items():
            answer = asked / f"{question}.csv"
            answer.write_text(run("query", sql, "--output", "csv"))
        subprocess.run(
            ["tar", "--create", "--zstd", "--file", str(Path(out).absolute()), "lake", "answers"],
            cwd=work / "packed", check=True, env={**os.environ, "ZSTD_CLEVEL": "19"},
        )  # fmt: skip


def _rows(path: Path) -> Iterator[str]:
    """Power of a simulated file's rows, and voltage on the last day; two hours without power."""
    header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    yield header
    for line in lines:
        time, *middle, power, voltage = line.split(",")
        if time[:13] in OUT_OF_POWER:
            power, voltage = "0", "0"
        voltage = voltage if time >= LAST else ""
        yield ",".join([time, *middle[:3], "", "", "", "", power, voltage])


def _corrected(row: str) -> str:
    """The same hour, one kW more, two days later."""
    cells = row.split(",")
    cells[1] = "2024-01-25 12:00:00"
    cells[8] = str(float(cells[8]) + 1)
    return ",".join(cells)


def _write(path: Path, rows: list[str]) -> None:
    text = ("\n".join(rows) + "\n").encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


if __name__ == "__main__":
    main(*sys.argv[1:])
