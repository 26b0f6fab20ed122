"""The generated pages: the data dictionary, the commands, the settings and the questions.

They say what the code says: schema/, the command line, the settings and questions/. `make docs`
writes them; a test fails where a page is behind the code.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from meterlake.cli import app
from meterlake.dataflows.registry import known_dataflows
from meterlake.questions.registry import QUESTIONS
from meterlake.schema import READING_TYPES, TABLES, Table, View
from meterlake.settings import CONFIG_FILE, Settings
from meterlake.source_settings import IntegrationSettings, SourceSettings
from meterlake.topology.upstream import VIEWS

DOCS = Path(__file__).parent
CONTRIBUTING = DOCS.parent / "CONTRIBUTING.md"
MAP_BEGIN = "<!-- map: made by docs/generate.py -->"
MAP_END = "<!-- end of map -->"


@dataclass(frozen=True)
class Section:
    """What the page says of a section of settings; examples are as in TOML."""

    title: str
    about: str
    examples: dict[str, str]


# Defaults that depend on the machine, which a page must not.
COMPUTED_DEFAULTS = {"workers": "the number of processors, at most 4"}

# Settings that are a section of the file each: their heading, the page that explains them, and
# two of their own as an example.
SECTIONS = {
    "grid": Section(
        "The grid",
        "What the analytics of [the grid](howto/grid.md) assume",
        {"nominal_voltage_v": "230", "outage_qualities": '["F"]'},
    ),
    "ml": Section(
        "Forecasts and anomalies",
        "What [forecasts](forecasting.md) and [anomalies](anomalies.md) assume",
        {"country": '"AU"', "train_meters": "1000"},
    ),
    "serve": Section(
        "The server",
        "Where the [REST API](api.md) and the console listen, who may ask, and at what price",
        {"port": "8080", "price_per_kwh": "0.31", "currency": '"EUR"'},
    ),
}

# Sections that there may be several of: how each begins, and its fields.
REPEATED: list[tuple[str, Section, type[BaseModel]]] = [
    (
        "[integration.north]",
        Section(
            "Head-end systems",
            "What each head-end system that is [pulled from](howto/pull.md) is, in a section of "
            "its own with a name of your choice",
            {
                "url": '"https://hes.example"',
                "sftp": '"sftp.hes.example:22"',
                "user": '"meterlake"',
                "password_env": '"NORTH_PASSWORD"',
                "host_key": '"SHA256:…"',
            },
        ),
        IntegrationSettings,
    ),
    (
        "[[source]]",
        Section(
            "Sources of files",
            "What each source that [`meterlake watch`](howto/watch.md) takes files from is, in a "
            "section of its own",
            {
                "url": '"sftp://files.example/outbox/*.csv.gz"',
                "user": '"mdm"',
                "password_env": '"FILES_PASSWORD"',
                "host_key": '"SHA256:…"',
                "after": '"move"',
            },
        ),
        SourceSettings,
    ),
]

TYPES = {
    "string": "text (UTF-8)",
    "double": "64-bit floating point number",
    "long": "64-bit whole number",
    "boolean": "true or false",
    "date": "a date, without a time",
    "timestamp": "UTC, microseconds",
}


def data_dictionary() -> str:
    """Every table and column, every reading type."""
    lines = [
        "# Data dictionary",
        "",
        _GENERATED.format("schema/"),
        "",
        "Every table is a Delta table: Parquet files, and a `_delta_log` that says which of them",
        "hold now. Paths are below the lake. Columns marked *partition* are part of the path",
        "(`year=2024/month=01/…`), as text. The words are explained in the",
        "[glossary](glossary.md).",
        "",
        _table(["Type", "Stored as"], [[f"`{name}`", text] for name, text in TYPES.items()]),
    ]
    for table in TABLES.values():
        lines += ["", *_describe(table)]
    for view in VIEWS.values():
        lines += ["", *_describe(view)]
    lines += [
        "",
        "## Reading types",
        "",
        "A reading type says what was measured, and in which unit it is stored. In `staging` each",
        "is a column, in `readings` a value of the column `reading_type` and a folder.",
        "",
        _table(
            ["Name", "Unit", "OBIS code", "Meaning"],
            [[f"`{t.name}`", t.unit, t.obis_code, t.meaning] for t in READING_TYPES.values()],
        ),
    ]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        _GENERATED.format("cli/"),
        "",
        "Exit codes: 0 done; 1 bad input, trying again will not help; 2 wrong usage; 3 something",
        "needed is not there at the moment. Messages, warnings and progress go to stderr, results",
        "to stdout. With `--output json` a command prints one JSON object on stdout and nothing",
        "else there. Stopped by Ctrl-C or SIGTERM, `hes serve`, `hes pull --every` and `watch` end",
        "with 0, since that is how they end, and others with 130 or 143. `meterlake --version`",
        "prints the version; `--help` after a command, its help.",
    ]
    for path, command in walk_commands():
        about, example = _about(command.help)
        lines += ["", f"## {' '.join(['meterlake', *path])}", "", about]
        if example is not None:
            lines += ["", "```bash", example, "```"]
        lines += ["", _table(["Argument", "Default", "Meaning"], _parameters(command))]
    return "\n".join(lines) + "\n"


def settings() -> str:
    """Every setting."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = COMPUTED_DEFAULTS.get(
            name, _default(field.get_default(call_default_factory=True))
        )
        kind = _kind(field.annotation)
        rows.append(
            [f"`{name}`", f"`METERLAKE_{name.upper()}`", kind, default, field.description or ""]
        )
    lines = [
        "# Settings",
        "",
        _GENERATED.format("settings.py` and `source_settings.py"),
        "",
        "A setting is looked for in this order, and the first that is found holds: the command's",
        f"flag (`--lake`), the environment variable, `{CONFIG_FILE}` in the working folder (or",
        "the file that `METERLAKE_CONFIG` names), the default. `meterlake settings` prints what",
        "holds now; secrets are never shown. A name in the file that is not in this table is",
        "refused.",
        "",
        _table(["Setting", "Variable", "Kind", "Default", "Meaning"], rows),
        "",
        f"In `{CONFIG_FILE}`:",
        "",
        "```toml",
        'lake = "/srv/meterlake"',
        'timezone = "Europe/London"',
        "late_after_minutes = 120",
        'late_hooks = ["log", "webhook"]',
        "```",
        "",
        "In an environment variable the names have commas: `METERLAKE_LATE_HOOKS=log,webhook`.",
        "Credentials of an object store are no settings: they come from that store's own",
        "variables, such as `AWS_ACCESS_KEY_ID`.",
        "",
        "## Options of dataflows",
        "",
        f"In `{CONFIG_FILE}` each [dataflow](howto/dataflows.md) has a section of its own:",
        "",
        "```toml",
        "[dataflow.weather]",
        'stations = ["72793"]',
        "since = 2022-01-01",
        "```",
        "",
        "or all of them are one variable, as JSON:",
        '`METERLAKE_DATAFLOW=\'{"weather": {"stations": ["72793"]}}\'`. Their values are shown',
        "nowhere, since one of a dataflow of your own may be a secret.",
    ]
    for flow in known_dataflows().values():
        lines += ["", f"### {flow.name}", "", _fields("Option", flow.options)]
    for name, part in SECTIONS.items():
        lines += ["", *_section(name, part)]
    for head, part, fields in REPEATED:
        lines += ["", f"## {part.title}", "", f"{part.about}:", "", "```toml", head]
        lines += [f"{field} = {value}" for field, value in part.examples.items()]
        lines += ["```", "", _fields("Setting", fields)]
    return "\n".join(lines) + "\n"


def questions() -> str:
    """Every question, its filters and its columns."""
    lines = [
        "# Questions",
        "",
        _GENERATED.format("questions/"),
        "",
        "Each question is a path of the [REST API](api.md), `GET /name`, with a parameter for each",
        "filter; a command, `meterlake ask name --filter filter=value`; and a call in Python,",
        '`meterlake.open(…).ask("name", filter=value)`. The console and the Grafana dashboards ask',
        "the same. Without a filter, all rows are meant. Costs are those of the setting",
        "`serve.price_per_kwh` unless `price` is given. `GET /openapi.json` says what each",
        "filter and column means.",
    ]
    rows = [
        [
            f"`{question.name}`",
            question.meaning,
            ", ".join(f"`{each.name}`" for each in question.filters),
            ", ".join(f"`{c.name}`" + f" [{c.unit}]" * bool(c.unit) for c in question.columns),
        ]
        for question in QUESTIONS.values()
    ]
    lines += ["", _table(["Question", "Answer", "Filters", "Columns"], rows)]
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "data-dictionary.md": data_dictionary,
    "commands.md": commands,
    "settings.md": settings,
    "questions.md": questions,
}


def walk_commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command of the command line that does something, with its path of names."""

    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))
            else:
                yield (*path, name), command

    yield from walk(typer.main.get_command(app), ())


def map_of_source() -> str:
    """The packages and modules of src/meterlake, each with the first sentence of its docstring."""
    source = DOCS.parent / "src" / "meterlake"
    modules = sorted(p for p in source.glob("*.py") if not p.name.startswith("__"))
    packages = sorted(p.parent for p in source.glob("*/__init__.py"))
    lines = ["src/meterlake/"]
    for path in (*modules, *packages):
        file = path / "__init__.py" if path.is_dir() else path
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        name = f"{path.name}/" if path.is_dir() else path.name
        lines.append(f"  {name:<20}{docstring.splitlines()[0].rstrip('.')}")
    return "\n".join(f"    {line}" for line in lines)


def contributing() -> str:
    """CONTRIBUTING.md with the present map between its markers."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    before, _, rest = text.partition(MAP_BEGIN)
    _, _, after = rest.partition(MAP_END)
    return f"{before}{MAP_BEGIN}\n\n{map_of_source()}\n\n{MAP_END}{after}"


def main() -> None:
    """Write the pages, and the map in CONTRIBUTING.md."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
    CONTRIBUTING.write_text(contributing(), encoding="utf-8")


def _section(name: str, section: Section) -> list[str]:
    """A setting that is a section: its example and its fields."""
    variables = [
        f"`METERLAKE_{name.upper()}__{field.upper()}="
        + (f"'{value}'" if value.startswith("[") else value.strip('"'))
        + "`"
        for field, value in section.examples.items()
    ]
    return [
        f"## {section.title}",
        "",
        f"{section.about}, in a section of `{CONFIG_FILE}`:",
        "",
        "```toml",
        f"[{name}]",
        *(f"{field} = {value}" for field, value in section.examples.items()),
        "```",
        "",
        f"or each as a variable, with two underscores: {variables[0]},",
        *(f"{variable}," for variable in variables[1:-1]),
        f"{variables[-1]}.",
        "",
        _fields("Setting", type(Settings.model_fields[name].default)),
    ]


_GENERATED = "*Generated from `{}` by `make docs`: change it there.*"


def _describe(table: Table | View) -> list[str]:
    partitions = table.partitioned_by if isinstance(table, Table) else ()
    rows = [
        [f"`{c.name}`", c.type + (" (partition)" * (c.name in partitions)), c.unit, c.meaning]
        for c in table.columns
    ]
    where = ""
    if isinstance(table, Table):
        by = ", ".join(f"`{name}`" for name in partitions)
        where = f" Stored at `{table.path}/`, " + (
            f"partitioned by {by}." if by else "in one file."
        )
    return [
        f"## {table.name}",
        "",
        f"{table.meaning}.{where}",
        "",
        _table(["Column", "Type", "Unit", "Meaning"], rows),
    ]


def _about(text: str | None) -> tuple[str, str | None]:
    """A command's help, apart from its example."""
    about, _, example = _plain(text or "").partition("Example: ")
    return about.strip(), " ".join(example.split()) or None


def _parameters(command: Any) -> list[list[str]]:
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = f"`{parameter.metavar or parameter.name.upper()}`"
        else:
            name = f"`{parameter.opts[0]}`"
            kind = parameter.type_descriptor.annotation
            if isinstance(kind, type) and issubclass(kind, Enum):
                name += " " + ", ".join(f"`{member.value}`" for member in kind)
        default = "required" if parameter.required else _default(parameter.default)
        rows.append([name, default, _plain(parameter.help or "")])
    return rows


def _fields(head: str, options: type[BaseModel]) -> str:
    """The fields of options, as a table."""
    rows = [
        [f"`{name}`", _kind(field.annotation), _default(field.default), field.description or ""]
        for name, field in options.model_fields.items()
    ]
    return _table([head, "Kind", "Default", "Meaning"], rows)


def _default(value: object) -> str:
    if value is None or value == "":
        return ""
    if value is PydanticUndefined:
        return "needed"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    if value in ({}, ()):
        return "none"
    if isinstance(value, BaseModel):
        name = next(n for n, f in Settings.model_fields.items() if f.default == value)
        return f"[each its own](#{SECTIONS[name].title.lower().replace(' ', '-')})"
    if isinstance(value, datetime):
        return f"`{value:%Y-%m-%d}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return f"`{value}`"


def _kind(annotation: Any) -> str:
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    if get_origin(annotation) is dict or is_section:
        return "table"
    if get_origin(annotation) is tuple:
        return "tables" if get_args(annotation)[0] is SourceSettings else "list of names"
    if isinstance(annotation, UnionType):
        return _kind(next(a for a in get_args(annotation) if a is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    if get_args(annotation):
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if annotation is bool:
        return "true or false"
    names = {str: "text", float: "number", int: "whole number", SecretStr: "secret"}
    return {**names, datetime: "date or time", Path: "path"}[annotation]


def _plain(text: str) -> str:
    """Help without the escapes of the terminal's markup."""
    return text.replace("\\[", "[")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


if __name__ == "__main__":
    main()
