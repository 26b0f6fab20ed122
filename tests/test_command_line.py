"""The command line: what it prints, its exit codes, and how it speaks of bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from isal import igzip
from typer.testing import CliRunner

from meterlake import cli
from meterlake.cli import app
from meterlake.ingest import intake

HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
ROW = "2024-01-01 00:00:00.0000000,2024-01-01 00:00:09.5000000,{},readings,1,1,1,1,{},220"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METERLAKE_LAKE", raising=False)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def good_file(path: Path, *values: float) -> Path:
    rows = [ROW.format(f"m{i}", value) for i, value in enumerate(values)]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(igzip.compress("\n".join([HEADER, *rows, ""]).encode()))
    return path


def test_from_file_to_answer_with_one_json_object_each(run: Run, tmp_path: Path) -> None:
    good_file(tmp_path / "a.csv.gz", 1.5, 2.5)
    code, out, _ = run("ingest", "a.csv.gz", "--output", "json")
    facts = json.loads(out)
    assert code == 0
    assert facts.pop("seconds") > 0
    assert facts == {
        "files": 1,
        "rows": 2,
        "stored": 2,
        "quarantined": 0,
        "readings": 12,
        "already_ingested": 0,
        "failed": [],
        "balance": [
            {
                "file": "a.csv.gz",
                "rows": 2,
                "stored": 2,
                "quarantined": 0,
                "readings": 12,
                "interval_seconds": 900,
                "length_source": "lake",
                "contradiction": "",
            }
        ],
    }
    code, out, _ = run("integrate", "--output", "json")
    facts = json.loads(out)
    assert facts.pop("seconds") > 0
    assert facts == {
        "partitions": 6,
        "added": 12,
        "replaced": 0,
        "duplicates": 0,
        "late": 0,
        "late_partitions": 0,
        "clustered": {
            "days": 6,
            "merged": 0,
            "consumption_days": 1,
            "weeks": 1,
            "months": 1,
        },
    }
    code, out, _ = run("cluster", "--output", "json")
    done = json.loads(out)
    assert done.pop("seconds") > 0
    assert set(done.values()) == {0}
    code, out, _ = run("readings", "m1", "--type", "kw", "--output", "json")
    assert [row["reading_value"] for row in json.loads(out)["rows"]] == [2.5]
    code, out, _ = run("query", "select sum(reading_value) s from readings where reading_type='kw'",
                       "--output", "csv")  # fmt: skip
    assert out.splitlines() == ["s", "4.0"]
    code, out, _ = run("catalog", "--output", "json")
    sizes = {t["table"]: t["rows"] for t in json.loads(out)["tables"] if t["rows"]}
    assert sizes == {
        "staging": 12, "deliveries": 1, "readings": 12, "serving_readings": 12,
        "consumption_daily": 2, "consumption_weekly": 2, "consumption_monthly": 2,
    }  # fmt: skip
    code, out, _ = run("catalog", "readings", "--output", "json")
    columns = {c["column"]: c for c in json.loads(out)["columns"]}
    assert columns["reading_date_time"]["unit"] == "UTC"


def test_a_file_is_known_by_its_content_not_its_name(run: Run, tmp_path: Path) -> None:
    good_file(tmp_path / "a.csv.gz", 1.5)
    run("ingest", "a.csv.gz")
    (tmp_path / "a.csv.gz").rename(tmp_path / "b.csv.gz")
    code, out, _ = run("ingest", "b.csv.gz", "--output", "json")
    facts = json.loads(out)
    assert (code, facts["files"], facts["already_ingested"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.csv.gz", igzip.compress(HEADER.encode() * 999)[:-30], ["cut.csv.gz", "gzip"]),
        ("bits.csv.gz", b"\x1f\x8b\x08" + b"\x00" * 9 + b"junk" * 9, ["damaged", "again"]),
        ("empty.csv", b"", ["empty.csv", "empty"]),
        ("one.csv", b"x", ["one.csv", "no known format"]),
        ("newline.csv", b"\n", ["newline.csv", "empty"]),
        ("other.csv", b"a,b\n1,2\n", ["no known format", "a,b", "--profile"]),
        ("lacks.csv", (HEADER.replace(",kw", "") + "\n").encode(), ["lacks kw", "header"]),
        ("twice.csv", (HEADER + ",kw\n").encode(), ["kw", "twice"]),
        ("bad.parquet", b"PAR1" + b"x" * 99, ["bad.parquet", "Parquet", "damaged"]),
        ("zst.csv.zst", b"\x28\xb5\x2f\xfd" + b"x" * 99, ["zst.csv.zst", "damaged"]),
        ("image.png", b"\x89PNG\r\n\x1a\n\x00\x00", ["no known format"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_gets_one_clear_sentence_and_changes_nothing(
    run: Run, tmp_path: Path, name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    code, out, err = run("ingest", name, "--output", "json")
    facts = json.loads(out)
    assert code == 1
    assert facts["files"] == facts["rows"] == 0
    (failure,) = facts["failed"]
    assert failure["file"] == name
    for word in words:
        assert word in failure["reason"]
    assert "Traceback" not in out + err
    assert not (tmp_path / "lake" / "staging").exists()


def test_a_missing_file_is_bad_input_and_makes_no_lake(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("ingest", "nowhere.csv.gz", "--output", "json")
    assert code == 1
    assert "nowhere.csv.gz" in json.loads(out)["failed"][0]["reason"]
    assert not (tmp_path / "lake").exists()


def test_one_bad_file_in_a_folder_does_not_keep_the_others_out(run: Run, tmp_path: Path) -> None:
    good_file(tmp_path / "inbox" / "a.csv.gz", 1.0)
    (tmp_path / "inbox" / "b.csv.gz").write_bytes(b"\x1f\x8b broken")
    good_file(tmp_path / "inbox" / "c.csv.gz", 2.0)
    code, out, _ = run("ingest", "inbox", "--output", "json")
    facts = json.loads(out)
    assert (code, facts["files"], len(facts["failed"])) == (1, 2, 1)
    assert facts["failed"][0]["file"].endswith("b.csv.gz")
    kept = [p.name for p in (tmp_path / "lake" / "inbound" / "failed").rglob("*") if p.is_file()]
    assert sorted(kept) == ["b.csv.gz", "b.csv.gz.reason.txt"]
    inbound = (tmp_path / "lake" / "inbound").glob("*/*")
    landed = [p.name for p in inbound if p.parent.name != "failed"]
    assert sorted(landed) == ["a.csv.gz", "c.csv.gz"]


def test_a_broken_stream_leaves_nothing_half_done(run: Run, tmp_path: Path) -> None:
    rows = "\n".join([HEADER, *(ROW.format(f"m{i}", i) for i in range(5000))])
    (tmp_path / "a.csv.gz").write_bytes(igzip.compress(rows.encode())[:-9])
    code, _, _ = run("ingest", "a.csv.gz")
    assert code == 1
    code, out, _ = run(
        "query", "select count(DISTINCT source_row) n from staging", "--output", "csv"
    )
    assert out.splitlines() == ["n", "0"]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("selec 1", "not valid DuckDB SQL"),
        ("select * from nothing", "Tables: staging"),
        ("drop table readings", "one SELECT"),
        ("select 1; select 2", "one SELECT"),
        ("copy (select 1) to 'x.csv'", "one SELECT"),
        ("", "one SELECT"),
        ("select * from read_text('/etc/hostname')", "cannot be answered"),
        ("select * from glob('/*')", "cannot be answered"),
    ],
)
def test_a_query_can_only_read_and_only_the_lake(
    run: Run, tmp_path: Path, sql: str, words: str
) -> None:
    good_file(tmp_path / "a.csv.gz", 1.0)
    run("ingest", "a.csv.gz")
    code, out, err = run("query", sql)
    assert code == 1
    assert words in err
    assert out == ""
    assert not (tmp_path / "x.csv").exists()


def test_rows_come_as_parquet_too(run: Run, tmp_path: Path) -> None:
    good_file(tmp_path / "a.csv.gz", 1.0)
    run("ingest", "a.csv.gz")
    result = CliRunner().invoke(
        app,
        [
            "query",
            "select reading_value from staging where reading_type = 'kw'",
            "--output",
            "parquet",
        ],
    )
    assert pl.read_parquet(result.stdout_bytes)["reading_value"].to_list() == [1.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["readings", "m1", "--type", "watt"], "kw"),
        (["readings", "m1", "--from", "yesterday"], "--from"),
        (["readings", "m1", "--from", "2024-02-01", "--to", "2024-01-01"], "end after it starts"),
        (["catalog", "nothing"], "readings"),
        (["ingest", "x", "--profile", "nothing"], "hes_csv"),
        (["catalog", "--lake", "ftp://host/lake"], "s3"),
    ],
)
def test_a_wrong_argument_is_answered_with_what_would_be_right(
    run: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "lake").mkdir()
    code, out, err = run(*arguments)
    assert code == 1
    assert words in err
    assert out == ""


@pytest.mark.parametrize(
    "arguments", [["catalog"], ["integrate"], ["query", "select 1"], ["readings", "m"], ["late"]]
)
def test_a_lake_that_is_not_there_is_said_to_be_missing_and_not_made(
    run: Run, tmp_path: Path, arguments: list[str]
) -> None:
    code, _, err = run(*arguments, "--lake", "lakke")
    assert code == 1
    assert "no lake at" in err
    assert not (tmp_path / "lakke").exists()


def test_a_meter_without_readings_is_said_to_have_none(run: Run, tmp_path: Path) -> None:
    good_file(tmp_path / "a.csv.gz", 1.0)
    run("ingest", "a.csv.gz")
    code, out, err = run("readings", "m-99", "--output", "json")
    assert (code, json.loads(out)) == (0, {"rows": []})
    assert "no kw readings of a meter 'm-99'" in err


def test_show_tables_shows_the_catalogs_tables(run: Run, tmp_path: Path) -> None:
    good_file(tmp_path / "a.csv.gz", 1.0)
    run("ingest", "a.csv.gz")
    _, out, _ = run("query", "show tables", "--output", "csv")
    assert set(out.split()) >= {"readings", "staging", "quarantine", "late_arrivals"}


def test_hooks_are_named_with_commas_in_the_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLAKE_LATE_HOOKS", "log, webhook")
    _, out, _ = run("settings", "--output", "json")
    values = {s["setting"]: s["value"] for s in json.loads(out)["settings"]}
    assert values["late_hooks"] == "log, webhook"


def test_usage_errors_end_with_two(run: Run) -> None:
    assert run("ingest")[0] == 2
    assert run("frobnicate")[0] == 2


def test_a_lake_that_cannot_be_written_is_unavailable(run: Run, tmp_path: Path) -> None:
    good_file(tmp_path / "a.csv.gz", 1.0)
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "inbound").write_text("a file where a folder must be")
    code, out, _ = run("ingest", "a.csv.gz", "--output", "json")
    assert code == 3
    assert "Cannot write" in json.loads(out)["failed"][0]["reason"]


def test_settings_come_from_flag_then_environment_then_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lake(*flags: str) -> str:
        _, out, _ = run("settings", "--output", "json", *flags)
        return str(next(s["value"] for s in json.loads(out)["settings"] if s["setting"] == "lake"))

    assert lake() == "./lake"
    (tmp_path / "meterlake.toml").write_text('lake = "from-file"\n')
    assert lake() == "from-file"
    monkeypatch.setenv("METERLAKE_LAKE", "from-environment")
    assert lake() == "from-environment"
    assert lake("--lake", "from-flag") == "from-flag"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("lake = ", "TOML"),
        ("lakes = 'x'", "lakes"),
        ("timezone = 'Mars/Olympus'", "Europe/London"),
        ("late_after_minutes = -1", "late_after_minutes"),
    ],
)
def test_a_wrong_settings_file_says_what_is_wrong(
    run: Run, tmp_path: Path, toml: str, words: str
) -> None:
    (tmp_path / "meterlake.toml").write_text(toml)
    code, _, err = run("settings")
    assert code == 1
    assert words in err


def test_secrets_are_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLAKE_LATE_WEBHOOK_URL", "http://127.0.0.1/token-hunter2")
    _, out, _ = run("settings", "--output", "json")
    assert "hunter2" not in out


def test_the_demo_tells_its_story_and_its_balance_holds(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("demo", "--devices", "30", "--days", "2", "--output", "json")
    facts = json.loads(out)
    assert code == 0
    assert facts["late"] > 0
    assert facts["rows"] * 6 == (
        facts["added"] + facts["replaced"] + facts["duplicates"] + facts["quarantined"] * 6
    )
    assert facts["grid"]["meters"] == 30
    assert facts["grid"]["transformers"] == 5
    assert facts["grid"]["hours"] == 48
    assert facts["grid"]["saved_kwh"] > 0
    code, _, err = run("demo", "--devices", "30", "--days", "2")
    assert code == 1
    assert "empty folder" in err


def test_simulate_writes_the_same_bytes_for_the_same_seed(run: Run, tmp_path: Path) -> None:
    flags = ["--devices", "20", "--start", "2024-01-01", "--end", "2024-01-03"]
    for folder in ("a", "b"):
        code, out, _ = run("simulate", "readings", *flags, "--out", folder, "--output", "json")
        assert code == 0
        assert json.loads(out)["rows"] == 20 * 96 * 2
    a, b = (sorted((tmp_path / folder).iterdir()) for folder in ("a", "b"))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]


def test_a_command_that_is_interrupted_says_what_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(intake, "ingest", interrupted)
    result = CliRunner().invoke(cli.app, ["ingest", "x.csv", "--lake", str(tmp_path / "lake")])
    assert result.exit_code == 130
    assert "stopped. What was committed stays; run the command again" in result.stderr
