"""A lake on S3, by the command line: how it is reached, and what is never shown."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from support.grids import small_grid, write_grid
from support.seaweed import SeaweedFS
from typer.testing import CliRunner

from meterlake import cli
from meterlake.schema import TABLES
from meterlake.simulate.weather import simulate_weather
from meterlake.storage import cause
from meterlake.topology.upstream import VIEWS

ROW = "2024-01-01 00:00:00,2024-01-01 00:05:00,m1,readings,,,,,1.5,"
NEXT_DAY = datetime(2024, 1, 2, tzinfo=UTC)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def meterlake(tmp_path: Path) -> Run:
    """Run a command with these variables and no others of AWS."""

    def run(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "METER"))}
        # Nobody is asked for credentials who is not of this test.
        environment |= {"HOME": str(tmp_path), "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"}
        return subprocess.run(
            [sys.executable, "-m", "meterlake", *args],
            env=environment | variables, check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


@pytest.fixture
def meterlake_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """The same in this process, which saves starting it some twenty times."""

    def run(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name in [n for n in os.environ if n.startswith(("AWS_", "METER"))]:
                patch.delenv(name)
            nobody = {"HOME": str(tmp_path), "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"}
            for name, value in (nobody | variables).items():
                patch.setenv(name, value)
            result = CliRunner().invoke(cli.app, args)
        out, err = capfd.readouterr()  # what did not come by Python
        return subprocess.CompletedProcess(
            args, result.exit_code, result.stdout + out, result.stderr + err
        )

    return run


def keys(seaweed: SeaweedFS) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_ENDPOINT_URL": seaweed.endpoint,
    }


def profile(folder: Path, seaweed: SeaweedFS) -> dict[str, str]:
    """The same in the files of ~/.aws, under a name that is not the default."""
    aws = folder / ".aws"
    aws.mkdir()
    (aws / "credentials").write_text(
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n"
        f"[lake]\naws_access_key_id = {seaweed.access_key}\n"
        f"aws_secret_access_key = {seaweed.secret_key}\n"
    )
    (aws / "config").write_text(f"[profile lake]\nendpoint_url = {seaweed.endpoint}\n")
    return {"AWS_PROFILE": "lake"}


@pytest.mark.parametrize("how", ["variables", "profile"])
def test_every_command_works_on_s3(
    how: str, meterlake: Run, meterlake_here: Run, seaweed: SeaweedFS, s3_lake: str,
    deliver: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    reach = keys(seaweed) if how == "variables" else profile(tmp_path, seaweed)
    inbox = str(deliver("a.csv.gz", ROW, "damaged"))
    later = str(deliver("b.csv", ROW.replace("1.5", "2.5").replace("00:05", "00:06")))
    secrets = (seaweed.access_key, seaweed.secret_key)

    def told(*args: str, run: Run = meterlake) -> dict[str, object]:
        done = run(*args, "--lake", s3_lake, "--output", "json", **reach)
        assert done.returncode == 0, done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in secrets)
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    assert told("ingest", inbox)["rows"] == 2
    assert told("integrate")["added"] == 1
    if how == "profile":  # the rest reaches the store in the same ways
        assert told("query", "SELECT reading_value FROM readings")["rows"]
        assert told("check")["findings"] == []
        return
    told_here = partial(told, run=meterlake_here)
    assert told_here("ingest", later)["stored"] == 1
    assert told_here("integrate")["replaced"] == 1
    sql = "SELECT reading_value FROM readings"
    assert told_here("query", sql) == {"rows": [{"reading_value": 2.5}]}
    assert told_here("query", sql, "--as-of", "2024-01-01T00:05Z") == {
        "rows": [{"reading_value": 1.5}]
    }
    assert len(told_here("readings", "m1")["rows"]) == 1  # type: ignore[arg-type]
    assert len(told_here("readings", "m1", "--as-of", "2024-01-01T00:05Z")["rows"]) == 1  # type: ignore[arg-type]
    assert len(told_here("balance")["rows"]) == 2  # type: ignore[arg-type]
    assert len(told_here("consumption", "m1")["rows"]) == 1  # type: ignore[arg-type]
    assert told_here("cluster")["days"] == 0
    grid = str(write_grid(tmp_path / "grid", small_grid(m1="t1")))
    assert told_here("dataflow", "run", "topology", "--source", grid)["attempts"] == 1
    simulate_weather((45.0, 7.0), datetime(2024, 1, 1, tzinfo=UTC), NEXT_DAY, tmp_path / "w")
    weather = ("weather", "--source", str(tmp_path / "w"), "--from", "2024-01-01")
    assert told_here("dataflow", "run", *weather)["added"] == 24
    assert told_here("grid", "update")["meter_supply_days"] == 1
    assert told_here("query", "SELECT substation FROM meter_topology")["rows"] == [
        {"substation": "North"}
    ]
    assert told_here("grid", "transformer-load")["rows"]
    assert len(told_here("catalog")["tables"]) == len(TABLES) + len(VIEWS)  # type: ignore[arg-type]
    assert told_here("check")["findings"] == []
    assert told_here("vacuum", "--retain", "0m", "--nobody-else")["superseded"] == 5
    assert told_here("check")["findings"] == []
    assert told_here("settings")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}, "right credentials"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "", "AWS_ACCESS_KEY_ID": ""}, "right credentials"),
    ],
    ids=["wrong", "half", "none"],
)
def test_credentials_that_do_not_fit_are_said_so_and_not_shown(
    variables: dict[str, str], message: str, meterlake: Run, seaweed: SeaweedFS, s3_lake: str,
    deliver: Callable[..., Path],
) -> None:  # fmt: skip
    reach = keys(seaweed) | variables
    done = meterlake("ingest", str(deliver("a.csv", ROW)), "--lake", s3_lake, **reach)
    assert done.returncode in (1, 3)
    assert "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert message in said
    for secret in (seaweed.secret_key, "a-wrong-secret", seaweed.access_key):
        assert secret not in said


def test_a_secret_that_a_server_quotes_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"the-{name}-itself")
    quoted = "<AWSAccessKeyId>the-AWS_ACCESS_KEY_ID-itself</> the-AWS_SECRET_ACCESS_KEY-itself"
    said = cause(OSError(f"\x1b[31mHTTP\x1b[0m {quoted} the-AWS_SESSION_TOKEN-itself\nmore"))
    assert said == "HTTP <AWSAccessKeyId>********</> ******** ********"
