"""SQL of strangers: what it cannot reach, what it cannot use up, and that it ends in time."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support import work

from meterlake.delta.store import Store, open_store
from meterlake.errors import BadInput, Unavailable
from meterlake.questions import sql as lake_sql
from meterlake.questions.history import AsOf
from meterlake.questions.sql import Limits, query, query_within
from meterlake.serve.sandbox import MOST_CHARACTERS, MOST_WAITING, Answer, Sandbox
from meterlake.settings import ServeSettings

Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Result]], Result]

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
HEADER = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
SECONDS, MEMORY_MB, ROWS = 1.0, 64, 50
LIMITS = ServeSettings(sql_seconds=SECONDS, sql_memory_mb=MEMORY_MB, sql_rows=ROWS, sql_processes=2)
PATIENT = LIMITS.model_copy(update={"sql_seconds": 60.0})
ENDLESS = "SELECT count(*) FROM range(1000000000000000000) a, readings"
ONE = "SELECT 1 AS claims"  # names one table, so that not all are looked up
SECRET = "the-word-that-nobody-may-see"
READABLE = "time,word\n1,the-word-that-nobody-may-see\n"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three days of two meters, one of them late, in a folder whose name is a pattern's."""
    folder = tmp_path_factory.mktemp("sandbox")
    rows = [
        f"2024-01-0{d} {h:02d}:00:00,2024-01-0{9 * m or d} {h:02d}:05:00,m{m},readings,,,,,{h}.5,"
        for d in (1, 2, 3)
        for h in range(0, 24, 3)
        for m in (0, 1)
    ]
    (folder / "a.csv").write_text("\n".join([HEADER, *rows, ""]))
    store = open_store(str(folder / "o'lake [a]*"))
    work.ingest(store.url, [str(folder / "a.csv")], NOW)
    work.integrate(store.url, NOW)
    work.cluster(store.url, NOW)
    (Path(store.url) / "access").mkdir()
    (Path(store.url) / "access" / "keys.csv").write_text(READABLE)
    (folder / "outside.csv").write_text(READABLE)
    return store


@pytest.fixture(scope="module")
def run() -> Iterator[Run[Any]]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def patient(lake: Store, run: Run[None]) -> Iterator[Sandbox]:
    """A sandbox whose time limit no slow machine reaches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOMEBODYS_TOKEN", SECRET)
        sandbox = Sandbox(lake.url, PATIENT)
        run(sandbox.start())
        yield sandbox
        run(sandbox.close())


@pytest.fixture(scope="module")
def strict(lake: Store, run: Run[None]) -> Iterator[Sandbox]:
    sandbox = Sandbox(lake.url, LIMITS)
    run(sandbox.start())
    yield sandbox
    run(sandbox.close())


def pids(sandbox: Sandbox) -> set[int]:
    return {child.process.pid for child in sandbox._alive}


def is_there(pid: int) -> bool:
    """Whether there is such a process; one that ended and that nobody asked about is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


async def answered(sandbox: Sandbox) -> int:
    """What it answers to a query that takes no time, or too much on a busy machine; then again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return int((await sandbox.query(ONE)).frame.item())
            except BadInput as error:
                assert "serve.sql_seconds" in str(error)


ESCAPES = {
    "a file's text": "SELECT * FROM read_text('{outside}')",
    "a file's bytes": "SELECT * FROM read_blob('{outside}')",
    "a CSV file": "SELECT * FROM read_csv('{outside}')",
    "a CSV file, by its other name": "SELECT * FROM read_csv_auto('{outside}')",
    "a JSON file": "SELECT * FROM read_json('{outside}')",
    "a Parquet file": "SELECT * FROM read_parquet('{outside}')",
    "another database": "SELECT * FROM read_duckdb('{outside}')",
    "/etc/passwd": "SELECT * FROM read_csv('/etc/passwd')",
    "a file as a table": "SELECT * FROM '{outside}'",
    "a file as a table of WITH": 'WITH "{outside}" AS (SELECT 1) FROM "{outside}"',
    "a file of a schema": 'SELECT * FROM outside."csv"',
    "what the lake keeps beside the tables": "SELECT * FROM read_text('{lake}/access/keys.csv')",
    "the lake's own log": "SELECT * FROM read_text('{lake}/staging/readings/**')",
    "names of files": "SELECT * FROM glob('/**')",
    "a guess at a CSV file": "SELECT * FROM sniff_csv('{outside}')",
    "a Parquet file's head": "SELECT * FROM parquet_metadata('{outside}')",
    "a file's first line, by SUMMARIZE": "SUMMARIZE '{outside}'",
    "a file's columns": "DESCRIBE SELECT * FROM '{outside}'",
    "a file, in a subquery": "SELECT (SELECT content FROM read_text('{outside}'))",
    "a file, in an IN": "SELECT 1 WHERE 'x' IN (SELECT content FROM read_text('{outside}'))",
    "a file, by SQL in a text": "SELECT * FROM query('SELECT * FROM read_text(''{outside}'')')",
    "a file, by a name in a text": "SELECT * FROM query_table('{outside}')",
    "a file, by a plan": "SELECT json_serialize_plan('FROM read_csv(''{outside}'')')",
    "a file, by a tree": "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "a pipe": "SELECT * FROM read_csv('cat {outside} |')",
    "this process's environment": "SELECT * FROM read_text('/proc/self/environ')",
    "a variable of the environment": "SELECT getenv('SOMEBODYS_TOKEN')",
    "a setting": "SELECT current_setting('secret_directory')",
    "a setting, by sign": "SELECT @@secret_directory",
    "a setting, in a window": "SELECT sum(1) OVER (ORDER BY current_setting('threads'))",
    "a setting, by SHOW": "SHOW threads",
    "all settings": "SELECT * FROM duckdb_settings()",
    "secrets": "SELECT * FROM duckdb_secrets()",
    "whose secret": "SELECT * FROM which_secret('s3://a/b', 's3')",
    "a variable": "SELECT getvariable('x')",
    "where the lake's files are": "SELECT sql FROM duckdb_views()",
    "the same of the schema": "SELECT * FROM information_schema.views",
    "the same of PostgreSQL": "SELECT pg_get_viewdef(1)",
    "the network": "SELECT * FROM read_csv('http://{listener}/a.csv')",
    "the network, as a table": "SELECT * FROM 'http://{listener}/a.parquet'",
    "another bucket": "SELECT * FROM 's3://other/a.parquet'",
    "another database's tables": "SELECT * FROM sqlite_scan('{outside}', 'a')",
    "a table of an extension": "SELECT * FROM iceberg_scan('{outside}')",
    "a log to a file": "FROM enable_logging(storage := 'file', storage_path := '{written}')",
    "a profile to a file": "FROM enable_profiling(save_location := '{written}')",
    "the log": "SELECT write_log('x')",
    "PRAGMA as a table": "SELECT * FROM pragma_database_size()",
    "Python's memory": "SELECT * FROM arrow_scan(1, 2, 3)",
    "raw memory": "SELECT finalize(to_aggregate_state('x', 'list', [1]))",
    "COPY": "COPY (SELECT 1) TO '{written}'",
    "COPY in a SELECT": "WITH x AS (COPY (SELECT 1) TO '{written}') SELECT * FROM x",
    "COPY over a table": "WITH x AS (COPY (SELECT 1) TO '{file}') SELECT * FROM x",
    "INSERT in a SELECT": "WITH x AS (INSERT INTO readings VALUES (1) RETURNING 1) SELECT * FROM x",
    "ATTACH": "ATTACH '{written}' AS other",
    "INSTALL": "INSTALL httpfs",
    "LOAD": "LOAD httpfs",
    "PRAGMA": "PRAGMA database_list",
    "SET": "SET lock_configuration = false",
    "SET VARIABLE": "SET VARIABLE x = 1",
    "RESET": "RESET lock_configuration",
    "CALL": "CALL pragma_version()",
    "EXPORT": "EXPORT DATABASE '{written}'",
    "IMPORT": "IMPORT DATABASE '{written}'",
    "CREATE": "CREATE TABLE x AS SELECT 1",
    "CREATE SECRET": "CREATE SECRET (TYPE s3)",
    "EXPLAIN ANALYZE": "EXPLAIN ANALYZE SELECT * FROM read_text('{outside}')",
    "PREPARE": "PREPARE x AS SELECT 1",
    "USE": "USE memory",
    "two statements": "SELECT 1; SELECT 2",
    "no statement": " -- nothing",
}  # fmt: skip


def filled(sql: str, lake: Store, listener: str = "127.0.0.1:9") -> str:
    folder = Path(lake.url).parent
    places = {
        "outside": folder / "outside.csv",
        "written": folder / "written",
        "file": next(Path(lake.url).rglob("*.parquet")),
        "lake": lake.url,
    }
    for name, place in places.items():
        quoted = str(place) if f'"{{{name}}}"' in sql else str(place).replace("'", "''")
        sql = sql.replace(f"{{{name}}}", quoted)
    return sql.replace("{listener}", listener)


def files_of(lake: Store) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in Path(lake.url).parent.rglob("*") if p.is_file()}


@pytest.mark.parametrize("sql", ESCAPES.values(), ids=ESCAPES.keys())
def test_a_query_reaches_nothing_but_the_tables(
    patient: Sandbox, run: Run[Answer], lake: Store, sql: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        host, port = listener.getsockname()
        before, children = files_of(lake), pids(patient)
        with pytest.raises(
            BadInput, match=r"cannot be answered|one SELECT|not valid DuckDB"
        ) as refused:
            run(patient.query(filled(sql, lake, f"{host}:{port}")))
        assert SECRET not in str(refused.value)
        assert files_of(lake) == before
        assert pids(patient) >= children  # it was refused, and broke nothing
        with pytest.raises(BlockingIOError):  # nobody came
            listener.accept()


NAMES_ALONE = ("a file as a table of WITH", "a file, by a tree")  # they open none
FILES = [
    name
    for name, sql in ESCAPES.items()
    if name not in NAMES_ALONE and any(p in sql for p in ("{outside}", "{lake}", "{written}"))
]


@pytest.mark.parametrize("escape", [*FILES, "/etc/passwd", "names of files", "another bucket"])
def test_duckdb_itself_opens_no_other_files_were_a_query_not_looked_through(
    lake: Store, escape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_sql, "check", lambda sql: None)
    before = files_of(lake)
    with pytest.raises((BadInput, Unavailable)) as refused:
        shown = query(lake, f"{filled(ESCAPES[escape], lake)} -- claims")
        if SECRET not in str(shown) and "error" in str(shown):
            raise BadInput("the plan is that of an error")
    assert SECRET not in str(refused.value)
    assert files_of(lake) == before


def test_no_variable_of_this_process_is_known_to_a_child_and_it_writes_no_file(
    patient: Sandbox,
) -> None:
    for pid in pids(patient):
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        size = next(line for line in limits if line.startswith("Max file size"))
        assert size.split()[3:5] == ["0", "0"]


HARMLESS = [
    "SELECT * FROM readings ORDER BY ALL",
    "FROM serving_readings SELECT count(*), max(reading_value) GROUP BY meter_id ORDER BY ALL",
    "SELECT meter_id, reading_value AS v FROM main.readings WHERE reading_value > 20 ORDER BY ALL",
    "WITH r AS (SELECT reading_value v FROM Readings) SELECT sum(v) FROM r",
    "WITH RECURSIVE claims(i) AS (SELECT 1 UNION SELECT i % 5 + 1 FROM claims) FROM claims",
    "PIVOT readings ON meter_id IN ('m0', 'm1') USING sum(reading_value) GROUP BY day ORDER BY day",
    "SELECT column_name, min, max, count FROM (SUMMARIZE readings) ORDER BY ALL",
    "DESCRIBE readings",
    "SHOW TABLES",
    "SELECT * FROM meter_topology",
    "SELECT r.day, u FROM readings r, unnest([1, 2]) t(u) ORDER BY ALL LIMIT 9",
    "SELECT rank() OVER (ORDER BY reading_date_time), {'a': [1]} s FROM readings ORDER BY ALL",
    "SELECT list_transform(range(3), lambda x: -x), 0.1::DECIMAL(9, 2), DATE '2024-01-01' claims",
    "SELECT (SELECT max(i) AS claims FROM range(9) t(i)) UNION SELECT 5 ORDER BY 1",
    "SELECT key, value FROM json_each('{\"a\": 1}')",
    "SELECT " + "(" * 400 + "1" + ")" * 400 + " AS claims",
]  # fmt: skip


@pytest.mark.parametrize("sql", HARMLESS)
def test_the_answer_is_that_of_the_command_line(
    patient: Sandbox, run: Run[Answer], lake: Store, sql: str
) -> None:
    wanted = query(lake, sql)
    answer = run(patient.query(sql))
    assert answer.frame.equals(wanted)
    assert answer.frame.schema == wanted.schema
    assert not answer.is_truncated


def test_the_lake_can_be_asked_as_it_was(patient: Sandbox, run: Run[Answer], lake: Store) -> None:
    as_of = AsOf(datetime(2024, 1, 5, tzinfo=UTC), "arrival")
    counted = "SELECT meter_id, count(*) AS n FROM readings GROUP BY ALL ORDER BY ALL"
    assert run(patient.query(counted)).frame.rows() == [("m0", 24), ("m1", 24)]
    answer = run(patient.query(counted, as_of=as_of))
    assert answer.frame.rows() == [("m0", 24)]
    assert answer.frame.equals(query(lake, counted, as_of=as_of))
    received = AsOf(datetime(2024, 1, 5, tzinfo=UTC), "receipt")
    assert run(patient.query(counted, as_of=received)).frame.rows() == []


@pytest.mark.parametrize(
    ("asked", "there", "given", "is_truncated"),
    [
        (None, 10**12, ROWS, True), (None, ROWS, ROWS, False), (None, ROWS + 1, ROWS, True),
        (7, 10**12, 7, True), (7, 7, 7, False), (10**9, 10**12, ROWS, True), (7, 0, 0, False),
    ],
)  # fmt: skip
def test_an_answer_has_no_more_rows_than_the_limit_and_says_so(
    patient: Sandbox, run: Run[Answer], asked: int | None, there: int, given: int,
    is_truncated: bool,
) -> None:  # fmt: skip
    answer = run(patient.query(f"SELECT i FROM range({there}) claims(i)", rows=asked))
    assert answer.frame["i"].to_list() == list(range(given))
    assert answer.is_truncated == is_truncated


BOMBS = [
    "SELECT repeat('x', 4000000000)",
    "SELECT list(range) FROM range(10000000000)",
    "SELECT string_agg(range::VARCHAR, ',') FROM range(10000000000)",
    "WITH RECURSIVE r AS (SELECT 'x' a UNION ALL SELECT a || a FROM r) SELECT count(a) FROM r",
    "SELECT a.range AS k, count(*) FROM range(1000000) a, range(1000000) b GROUP BY k, b.range",
    "SELECT repeat('x', 3000000) FROM range(1000)",
]


@pytest.mark.parametrize("sql", BOMBS)
def test_a_memory_bomb_ends_in_time_and_takes_nothing_from_this_process(
    strict: Sandbox, run: Run[Any], sql: str
) -> None:
    assert run(answered(strict)) == 1  # its child has started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput, match=r"serve\.sql_(memory_mb|seconds) = |more than 64 MB"):
        run(asyncio.wait_for(strict.query(sql), 60))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert run(answered(strict)) == 1


def test_an_endless_query_ends_in_time_and_its_child_is_gone(lake: Store, run: Run[None]) -> None:
    async def ask() -> None:
        sandbox = Sandbox(lake.url, LIMITS)
        await sandbox.start()
        children = pids(sandbox)
        with pytest.raises(BadInput, match=r"serve\.sql_seconds = 1 .*[Aa]ggregate"):
            await asyncio.wait_for(sandbox.query(ENDLESS), 60)
        assert not any(map(is_there, children))
        assert await answered(sandbox) == 1
        everyone = pids(sandbox)
        await sandbox.close()
        assert everyone and not any(map(is_there, everyone))

    run(ask())


def test_a_query_that_nobody_waits_for_is_killed_and_others_are_answered_meanwhile(
    lake: Store, run: Run[None]
) -> None:
    async def ask() -> None:
        sandbox = Sandbox(lake.url, PATIENT)
        await sandbox.start()
        (busy,) = pids(sandbox)
        endless = asyncio.create_task(sandbox.query(ENDLESS))
        answers = await asyncio.gather(*(sandbox.query(f"SELECT {n} AS claims") for n in range(4)))
        assert [a.frame.item() for a in answers] == [0, 1, 2, 3]
        assert len(pids(sandbox)) == 2
        assert is_there(busy) and not endless.done()
        waiting = [asyncio.create_task(sandbox.query(ENDLESS))]
        waiting += [asyncio.create_task(sandbox.query(ONE)) for _ in range(MOST_WAITING)]
        await until(lambda: sandbox._waiting == MOST_WAITING)
        with pytest.raises(Unavailable, match=r"32 SQL queries wait already.*later"):
            await sandbox.query(ONE)
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        assert not is_there(busy)
        for task in waiting[4:]:
            task.cancel()
        answers = await asyncio.gather(*waiting[1:4])
        assert [a.frame.item() for a in answers] == [1, 1, 1]
        await sandbox.close()
        with pytest.raises(Unavailable, match="being stopped"):
            await waiting[0]

    run(ask())


def test_a_child_that_dies_takes_its_own_query_with_it_and_no_other(
    lake: Store, run: Run[None]
) -> None:
    async def ask() -> None:
        one = PATIENT.model_copy(update={"sql_processes": 1})
        sandbox = Sandbox(lake.url, one)
        await sandbox.start()
        (pid,) = pids(sandbox)
        endless = asyncio.create_task(sandbox.query(ENDLESS))
        await until(lambda: sandbox._children == [])
        os.kill(pid, signal.SIGSEGV)
        with pytest.raises(BadInput, match=r"SIGSEGV.*serve\.sql_memory_mb = 64"):
            await endless
        assert (await sandbox.query(ONE)).frame.item() == 1
        (idle,) = sandbox._alive
        idle.process.kill()
        await idle.process.wait()
        assert (await sandbox.query(ONE)).frame.item() == 1
        assert len(pids(sandbox)) == 1
        await sandbox.close()

    run(ask())


PARENT = """
import asyncio, sys
from meterlake.serve.sandbox import Sandbox
from meterlake.settings import ServeSettings

async def main():
    sandbox = Sandbox(sys.argv[1], ServeSettings(sql_processes=2, sql_seconds=600))
    await sandbox.start()
    busy = asyncio.create_task(sandbox.query(sys.argv[2]))
    while len(sandbox._alive) < 2:
        await asyncio.sleep(0.01)
    print(*(child.process.pid for child in sandbox._alive), flush=True)
    await busy

asyncio.run(main())
"""


def test_where_the_server_is_killed_its_children_end(lake: Store, run: Run[None]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, lake.url, ENDLESS], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2 and all(map(is_there, children))
        parent.kill()
    run(until(lambda: not any(map(is_there, children))))


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT " + "(" * 20_000 + "1" + ")" * 20_000, "depth"),
        ("SELECT " + "-" * 3 + "\n" + "NOT " * 20_000 + "true", "depth|process|nested"),
        ("SELECT " + "1 + " * 900 + "1", "nested too deeply"),
        ("SELECT * FROM (" * 4_000 + "SELECT 1" + ")" * 4_000, "depth|process|nested"),
        ("SELECT '" + "x" * MOST_CHARACTERS + "'", "100,000 characters"),
        ("SELEC 1", "not valid DuckDB SQL"),
        ("SELECT nothing FROM readings", "nothing.*Tables: "),
        ("SELECT $1", "cannot be answered"),
        ("SELECT INTERVAL 1 DAY AS length", "'length' is a length of time"),
        ("SELECT 1 AS a, 2 AS a", "several columns named 'a'"),
    ],
    ids=[
        "parentheses",
        "operators",
        "sum",
        "subqueries",
        "long",
        "word",
        "column",
        "value",
        "time",
        "two of a name",
    ],
)
def test_what_is_no_query_gets_a_sentence_and_the_next_one_an_answer(
    patient: Sandbox, run: Run[Answer], sql: str, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        run(patient.query(sql))
    assert run(patient.query(ONE)).frame.item() == 1


def test_a_fault_in_the_middle_of_an_answer_is_told_as_one_at_its_beginning(lake: Store) -> None:
    sql = "SELECT CASE WHEN range > {} THEN error('late') ELSE 1 END AS a FROM range(999999)"
    for first in (-1, 500_000):
        with pytest.raises(BadInput, match=r"cannot be answered: .*late"):
            query(lake, sql.format(first))


def test_an_answer_that_is_too_large_is_refused_before_it_is_whole(lake: Store) -> None:
    limits = Limits(memory_mb=512, rows=10**6, answer_mb=1)
    wide = "SELECT repeat('x', 1000) AS claims FROM range({})"
    assert query_within(lake, wide.format(900), limits)[0].height == 900
    with pytest.raises(BadInput, match=r"more than 1 MB in its first [0-9]+ rows"):
        query_within(lake, wide.format(10**12), limits)


@pytest.mark.proof
def test_where_the_storage_is_away_it_may_come_back(tmp_path: Path, run: Run[None]) -> None:
    rows = "2024-01-01 00:00:00,2024-01-01 00:05:00,m1,readings,,,,,1.5,"
    (tmp_path / "a.csv").write_text(f"{HEADER}\n{rows}\n")
    lake = tmp_path / "lake"
    work.ingest(str(lake), [str(tmp_path / "a.csv")], NOW)

    async def ask() -> None:
        sandbox = Sandbox(str(lake), PATIENT)
        counted = "SELECT count(*) FROM staging"
        assert (await sandbox.query(counted)).frame.item() == 1
        lake.rename(tmp_path / "away")
        with pytest.raises(Unavailable, match="is not there"):
            await sandbox.query(counted)
        (tmp_path / "away").rename(lake)
        assert (await sandbox.query(counted)).frame.item() == 1
        next((lake / "staging" / "readings").rglob("*.parquet")).unlink()
        with pytest.raises(Unavailable, match="meterlake check"):
            await sandbox.query("SELECT * FROM staging")
        await sandbox.close()

    run(ask())


def test_a_lake_on_s3_is_answered_and_its_keys_are_not(
    s3_lake: str, run: Run[None], tmp_path: Path
) -> None:
    rows = "2024-01-01 00:00:00,2024-01-01 00:05:00,m1,readings,,,,,1.5,"
    (tmp_path / "a.csv").write_text(f"{HEADER}\n{rows}\n")
    work.ingest(s3_lake, [str(tmp_path / "a.csv")], NOW)
    store = open_store(s3_lake)
    store.put("access/keys.csv", READABLE.encode())

    async def ask() -> None:
        sandbox = Sandbox(s3_lake, PATIENT)
        answer = await sandbox.query("SELECT * FROM staging")
        assert answer.frame.equals(query(store, "SELECT * FROM staging"))
        for sql in (
            f"SELECT * FROM read_text('{s3_lake}/access/keys.csv')",
            f"SELECT * FROM '{s3_lake}/access/keys.csv'",
            "SELECT * FROM duckdb_secrets()",
            "SELECT getenv('AWS_SECRET_ACCESS_KEY')",
        ):
            with pytest.raises(BadInput, match="cannot be answered") as refused:
                await sandbox.query(sql)
            assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(refused.value)
        await sandbox.close()

    run(ask())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lake_sql, "check", lambda sql: None)
        with pytest.raises((BadInput, Unavailable), match="disabled by configuration"):
            query(store, f"SELECT * FROM read_text('{s3_lake}/access/keys.csv')")
