"""The docs say what is: their commands run, their pages are complete, their links lead somewhere.

A page's `bash` blocks are run in order in one folder, and a `text` block below one is what
it prints, where `…` stands for anything. `<!-- exits 1 -->` before a block gives another exit
code than 0. `console` blocks are not run.
"""

import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from meterlake.cli import app
from meterlake.delta.store import open_store
from meterlake.engine.local import LocalEngine
from meterlake.formats.profile import _ENERGY_UNITS, _POWER_UNITS, Long, Profile, Time, Value
from meterlake.formats.registry import known_formats
from meterlake.ingest import intake
from meterlake.integrate import derivations
from meterlake.integrate.events import LateReads
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.schema import LATE_ARRIVALS, READING_TYPES, TABLES
from meterlake.settings import Settings, load_settings
from meterlake.simulate.faults import FAULT_KINDS
from meterlake.simulate.readings import ReadingsPlan, simulate_readings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HOWTO = DOCS / "howto"
ML_PAGES = (DOCS / "forecasting.md", DOCS / "anomalies.md")
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
OWN_PACKAGES = {  # pages that need the package that they show, by its module
    "our_dataflows": HOWTO / "add-a-dataflow.md",
    "our_tables": HOWTO / "add-a-derived-table.md",
}
OWN_FORECASTER = HOWTO / "add-a-forecaster.md"  # with its package, and from an empty folder
GENERATED = {
    DOCS / f"{name}.md" for name in ("data-dictionary", "commands", "settings", "questions")
}
WRITTEN = "\n".join(p.read_text(encoding="utf-8") for p in PAGES if p not in GENERATED)

_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the note above it, the `text` block below it."""

    kind: str
    text: str
    note: str
    prints: str | None


def blocks(page: Path) -> list[Block]:
    found = list(_FENCE.finditer(page.read_text(encoding="utf-8")))
    below = [m["text"] if m["kind"] == "text" else None for m in found[1:]] + [None]
    return [
        Block(m["kind"], m["text"], m["note"] or "", after)
        for m, after in zip(found, below, strict=True)
    ]


def runs(page: Path) -> bool:
    """Whether there is anything to run on a page."""
    return any(block.kind == "bash" for block in blocks(page))


def exit_code(block: Block) -> int:
    return int(block.note.removeprefix("exits ")) if block.note.startswith("exits ") else 0


def check_output(block: Block, output: str) -> None:
    """Compare line by line, blanks and rules of any length alike."""
    if block.prints is None:
        return
    shown, expected = (_even(text) for text in (output, block.prints))
    pattern = ".*".join(re.escape(part.strip(" ")) for part in expected.split("…"))
    assert re.fullmatch(pattern, shown, re.S), f"{block.text}\nprints\n{output}"


def _even(text: str) -> str:
    lines = (re.sub(r"\s+", " ", re.sub("─+", "─", line)).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("METERLAKE_")}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def tutorial_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it is after the first three steps of the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    plan = ReadingsPlan(
        devices=120,
        interval_minutes=15,
        start=datetime(2024, 1, 1, tzinfo=UTC),
        end=datetime(2024, 1, 4, tzinfo=UTC),
        late_percent=5.0,
        bad_percent=0.02,
    )
    simulate_readings(plan, folder / "inbox")
    store, engine = open_store(str(folder / "lake")), LocalEngine(2)
    settings, now = load_settings(late_hooks=()), datetime.now(UTC)
    intake.ingest(Session(store, engine, settings, now), [str(folder / "inbox")])
    derivations.integrate(Session(store, engine, settings, now))
    return folder


@pytest.fixture
def page_folder(
    tutorial_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy of that folder, as the working folder."""
    folder = tmp_path / "page"
    shutil.copytree(tutorial_lake, folder)
    monkeypatch.chdir(folder)
    yield folder


def follow(page: Path, folder: Path, **environment: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in blocks(page):
        if block.kind == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=folder,
                env=clean_environment() | {"PATH": path} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert done.returncode == exit_code(block), f"{block.text}\n{done.stdout}"
            check_output(block, done.stdout)


def install(folder: Path, pages: dict[str, Path]) -> None:
    """Write each page's module into a folder, with the entry points that its pyproject.toml has.

    What a package would be once it is installed, where the folder is on the path.
    """
    points = ""
    for module, page in pages.items():
        python = next(b for b in blocks(page) if b.kind == "python")
        toml = next(b for b in blocks(page) if b.kind == "toml" and "entry-points" in b.text)
        (folder / f"{module}.py").write_text(python.text, encoding="utf-8")
        group, point = re.findall(r'entry-points."(.*)"\]\n(.*)', toml.text)[0]
        points += f"[{group}]\n{point.replace(chr(34), '')}\n"
    info = folder / "ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_the_readme_can_be_followed_from_an_empty_folder(tmp_path: Path) -> None:
    follow(ROOT / "README.md", tmp_path)


@pytest.mark.proof
def test_a_head_end_system_is_pulled_from_as_the_readme_says(tmp_path: Path) -> None:
    """Its three shells, within two minutes; the ports alone are free ones."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Pull from a head-end system\n")[2].partition("\n## ")[0]
    shells = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    [[serve], [configure, pull], [status, readings]] = (
        [line.removeprefix("$ ") for line in shell.splitlines()] for shell in shells
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told: dict[str, Any] = {
        "cwd": tmp_path, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
        "env": clean_environment() | {"PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    }  # fmt: skip
    began = time.monotonic()
    with ExitStack() as stack:

        def started(command: str) -> subprocess.Popen[str]:
            process = stack.enter_context(subprocess.Popen(shlex.split(command), **told))
            stack.callback(process.kill)
            return process

        hes = started(f"{serve} --port 0 --sftp-port 0")
        assert hes.stdout is not None
        while "Ctrl-C stops it" not in hes.stdout.readline():
            assert hes.poll() is None
        subprocess.run(["bash", "-c", configure], check=True, **told)
        puller = started(pull)
        assert puller.stdout is not None
        assert " rows, arrivals up to " in puller.stdout.readline()
        answers = [subprocess.run(shlex.split(line), **told) for line in (status, readings)]
        for process in (puller, hes):
            process.terminate()
            assert process.wait(60) == 0
    assert [a.returncode for a in answers] == [0, 0], answers
    assert " idle " in answers[0].stdout or " running " in answers[0].stdout
    assert "100 of" in answers[1].stdout
    assert time.monotonic() - began < 120


def test_the_tutorial_can_be_followed_from_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root, as_in_a_process = logging.getLogger(), logging.lastResort
    assert as_in_a_process is not None
    root.addHandler(as_in_a_process)
    try:
        follow_here(DOCS / "tutorial.md", errors=True)
    finally:
        root.removeHandler(as_in_a_process)


@pytest.mark.proof
@pytest.mark.parametrize("module", list(OWN_PACKAGES))
def test_the_package_of_the_docs_works_when_it_is_installed(
    tmp_path: Path, page_folder: Path, module: str
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    install(package, {module: OWN_PACKAGES[module]})
    follow(OWN_PACKAGES[module], page_folder, PYTHONPATH=str(package))


@pytest.mark.proof
def test_the_forecaster_of_the_docs_works_when_it_is_installed(tmp_path: Path) -> None:
    package, folder = tmp_path / "package", tmp_path / "page"
    package.mkdir()
    folder.mkdir()
    install(package, {"our_forecasters": OWN_FORECASTER})
    follow(OWN_FORECASTER, folder, PYTHONPATH=str(package))


@pytest.mark.proof
@pytest.mark.usefixtures("page_folder")
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in (*sorted(HOWTO.glob("*.md")), *ML_PAGES)
        if page not in (*OWN_PACKAGES.values(), OWN_FORECASTER) and runs(page)
    ],
    ids=lambda p: p.stem,
)
def test_the_how_to_works_on_the_lake_of_the_tutorial(page: Path) -> None:
    follow_here(page)


def follow_here(page: Path, *, errors: bool = False) -> None:
    """Follow a page in the working folder, its commands in this process.

    With `errors`, what goes to standard error belongs to what is printed.
    """
    for block in blocks(page):
        if block.kind == "bash":
            printed, code = "", 0
            for statement in _statements(block.text):
                assert code == 0, f"before: {statement}"
                if isinstance(statement, str):
                    printed += subprocess.check_output(["bash", "-euc", statement], text=True)
                else:
                    result = CliRunner().invoke(app, statement)
                    printed += result.output if errors else result.stdout
                    code = result.exit_code
                    assert result.exception is None or isinstance(result.exception, SystemExit)
            assert code == exit_code(block), block.text
            check_output(block, printed)


def _statements(script: str) -> Iterator[str | list[str]]:
    """A script cut into the arguments of `meterlake`, and what lies between for the shell.

    Most pages are run in this process, which saves starting it some fifty times.
    """
    held, rest = "", ""
    for line in script.splitlines(keepends=True):
        if held or line.startswith("meterlake "):
            held += line
            if held.endswith("\\\n") or held.count('"') % 2:
                continue
            if rest:
                yield rest
            yield shlex.split(held.replace("\\\n", " "))[1:]
            held, rest = "", ""
        else:
            rest += line
    if rest:
        yield rest


@pytest.mark.parametrize(("page", "count"), [("query.md", 3), ("energy.md", 1), ("python.md", 3)])
def test_python_reads_the_lake_as_the_docs_show(
    page: str, count: int, page_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [b for b in blocks(HOWTO / page) if b.kind == "python" and not b.note]
    assert len(run) == count
    for block in run:
        exec(compile(block.text, page, "exec"), {})
        check_output(block, capsys.readouterr().out)


def test_the_format_and_the_hook_of_the_docs_work_when_they_are_installed(tmp_path: Path) -> None:
    pages = {"our_formats": HOWTO / "custom-format.md", "our_hooks": HOWTO / "late-reads.md"}
    install(tmp_path, pages)
    (tmp_path / "meterlake.toml").write_text('late_hooks = ["tell"]\n')
    (tmp_path / "late.csv").write_text(
        "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg\n"
        "2024-01-31 05:00:00,2024-01-31 06:00:01,M-2,readings,,,,,1.5,\n"
    )
    (tmp_path / "reads.jsonl").write_text(
        '{"meter": "M-1", "at": "2024-01-31T05:00:00Z", "kw": 0.4}\nno json\n'
    )
    script = "meterlake ingest reads.jsonl late.csv; meterlake integrate"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=clean_environment() | {"PATH": path, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    store = open_store(str(tmp_path / "lake"))
    values = query(store, "select meter_id, reading_value from readings order by all")
    assert values.rows() == [("M-1", 0.4), ("M-2", 1.5)]
    bad = query(store, "select source_row, raw, format from quarantine")
    assert bad.rows() == [(2, "no json", "json_lines")]
    assert (tmp_path / "late.log").read_text() == "1 late readings in 1 partitions\n"


def test_the_docs_name_every_command_and_option() -> None:
    missing = []
    for path, command in generator().walk_commands():
        name = " ".join(["meterlake", *path])
        missing += [name] if name not in WRITTEN else []
        for parameter in command.params:
            if parameter.param_type_name == "option":
                option = parameter.opts[0]
                missing += [f"{name} {option}"] if f"{option}" not in WRITTEN else []
    assert missing == []


def test_the_docs_name_every_setting() -> None:
    assert [name for name in Settings.model_fields if f"`{name}`" not in WRITTEN] == []


def test_the_docs_name_every_table_and_the_glossary_every_column_and_reading_type() -> None:
    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8")
    columns = {c.name for table in TABLES.values() for c in table.columns}
    for name in [*TABLES, *sorted(columns), *READING_TYPES]:
        assert f"`{name}`" in glossary, name


def test_the_how_to_on_ingest_explains_every_figure_and_every_format() -> None:
    page = (HOWTO / "ingest.md").read_text(encoding="utf-8")
    figures = {f.name for f in fields(intake.Ingested)} | {"seconds"}
    figures |= {f.name for f in fields(derivations.IntegrationResult)}
    for name in [*sorted(figures - {"failures"}), *known_formats(default_zone="UTC")]:
        assert f"`{name}`" in page, name


def test_the_how_to_on_profiles_explains_every_key_and_unit() -> None:
    page = (HOWTO / "profiles.md").read_text(encoding="utf-8")
    parts: list[type[BaseModel]] = [Profile, Time, Value, Long]
    for name in (n for part in parts for n in part.model_fields):
        shown = f"`[{name}]`" if name in ("time", "arrival", "values", "long") else f"`{name}`"
        assert shown in page, name
    for unit in [*_POWER_UNITS, *_ENERGY_UNITS]:
        assert re.search(rf"(?<![\w%]){re.escape(unit)}(?![\w%])", page), unit


def test_the_how_to_on_late_reads_names_every_field_of_the_event() -> None:
    page = (HOWTO / "late-reads.md").read_text(encoding="utf-8")
    for name in [f.name for f in fields(LateReads)] + [c.name for c in LATE_ARRIVALS.columns[1:7]]:
        assert f"`{name}`" in page, name


def test_the_how_to_on_simulation_explains_every_fault() -> None:
    page = (HOWTO / "simulate.md").read_text(encoding="utf-8")
    assert [kind.name for kind in FAULT_KINDS if f"| `{kind.name}` |" not in page] == []


def test_the_generated_pages_are_up_to_date() -> None:
    module = generator()
    assert {DOCS / name for name in module.PAGES} == GENERATED
    for name, page in module.PAGES.items():
        assert (DOCS / name).read_text(encoding="utf-8") == page(), f"{name}: run make docs"


def test_the_map_in_contributing_is_up_to_date() -> None:
    module = generator()
    assert (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") == module.contributing(), (
        "run make docs"
    )


def test_the_ten_typical_changes_name_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| an? .*$", text, re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        if "planned" not in row:
            paths = re.findall(r"`((?:src|tests|dashboards|benchmarks)/[^`]*)`", row)
            assert paths and [p for p in paths if not (ROOT / p).exists()] == [], row


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        text = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            to = (page.parent / file).resolve() if file else page
            if not to.is_file() or (anchor and anchor not in _anchors(to)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
