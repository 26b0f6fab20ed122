"""A function has one subject: no more lines and parameters than can be read at a glance."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "meterlake"

MOST_LINES = 60  # from `def` to the last line, but for the docstring
MOST_PARAMETERS = 6

EXCEPTIONS = {
    "readings/consumption.read_consumption": "seven parameters: a value for the zone, the periods "
    "and their window is still to be made",
}

# Decorators of Typer commands and FastAPI routes, whose parameters are the user's options.
_ASKED_BY_USERS = {"callback", "command", "get", "post", "put", "patch", "delete"}


def test_no_function_is_too_long_to_read_or_takes_too_many_parameters() -> None:
    found = {
        f"{path.relative_to(SOURCE).with_suffix('')}.{name}": why
        for path in sorted(SOURCE.rglob("*.py"))
        for name, why in too_large(path.read_text(encoding="utf-8"))
    }
    assert {name: why for name, why in found.items() if name not in EXCEPTIONS} == {}
    assert EXCEPTIONS.keys() <= found.keys(), "an exception that none needs any more"


def test_too_large_functions_are_seen() -> None:
    """Of the check itself: what it counts, and what it leaves out."""
    body = "\n".join(["    x = 1"] * MOST_LINES)
    seven = "a, b, c, *, d, e, f, g"
    assert dict(too_large(f'def long():\n    """Say.\n\n    More."""\n{body}')) == {
        "long": "61 lines"
    }
    assert dict(too_large(f"async def wide({seven}): ...")) == {"wide": "7 parameters"}
    assert dict(too_large(f"class A:\n    def wide(self, {seven}): ...")) == {
        "A.wide": "7 parameters"
    }
    assert dict(too_large(f"@router.get('/')\ndef asked({seven}): ...")) == {}
    assert dict(too_large(f"@cached\ndef asked({seven}): ...")) == {"asked": "7 parameters"}


def too_large(source: str) -> Iterator[tuple[str, str]]:
    """The functions of a module that are over a limit, and why."""
    for name, function in functions(ast.parse(source)):
        lines, parameters = lines_of(function), parameters_of(function)
        over = [f"{lines} lines"] if lines > MOST_LINES else []
        if parameters > MOST_PARAMETERS and not is_asked_by_users(function):
            over.append(f"{parameters} parameters")
        if over:
            yield name, ", ".join(over)


def functions(
    node: ast.AST, within: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        inside = within
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{within}{child.name}."
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{within}{child.name}", child
        yield from functions(child, inside)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = last_line(function) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        lines -= last_line(function.body[0]) - function.body[0].lineno + 1
    return lines


def last_line(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def is_asked_by_users(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    called = [d.func for d in function.decorator_list if isinstance(d, ast.Call)]
    return any(isinstance(c, ast.Attribute) and c.attr in _ASKED_BY_USERS for c in called)
