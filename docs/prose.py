"""The prose check of `make lint`: wordings that read as translated, with what to write instead.

Pages are checked whole; of Python files the docstrings and other texts; templates whole. Vale
would do the same, but its package fetches a binary from elsewhere when it is first run.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS = Path(__file__).parent / "words.toml"
PLACES = ("*.md", "docs/**/*.md", "src/**/*.py", "src/**/*.html", "dashboards/*.py")
OLD = {"CHANGELOG.md"}  # what is released stays as it was written


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file for people, each with the number of its first line."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, content
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def hits(path: Path, words: dict[re.Pattern[str], str]) -> Iterator[str]:
    """Each wording of the list that stands in a file, as a line to print."""
    for first, text in texts(path):
        for pattern, better in words.items():
            for found in pattern.finditer(text):
                line = first + text.count("\n", 0, found.start())
                yield f"{path.relative_to(ROOT)}:{line}: '{found[0]}': write {better}"


def main() -> int:
    """Print every hit; how many there are decides the exit code."""
    listed = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    words = {
        re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE): better
        for pattern, better in listed.items()
    }
    files = sorted({p for place in PLACES for p in ROOT.glob(place) if p.name not in OLD})
    found = [hit for path in files for hit in hits(path, words)]
    print("\n".join(found) or f"prose: {len(files)} files, nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
