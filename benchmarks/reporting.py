"""What the benchmarks print: the machine, the targets, and one line of JSON."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rivals

Figures = dict[str, float]


@dataclass(frozen=True)
class Target:
    """A figure and the bound that it must keep."""

    figure: float
    bound: str
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the figure keeps its bound."""
        return {
            "<=": self.figure <= self.limit,
            "<": self.figure < self.limit,
            ">=": self.figure >= self.limit,
        }[self.bound]


def machine() -> list[str]:
    """What it ran on and with, in general words."""
    packages = ("meterlake", "polars", "deltalake", "duckdb", "chdb-core")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"machine: {len(os.sched_getaffinity(0))} cores ({_processor()}), {memory:.0f} GB memory, "
        f"{platform.system()}; load when it began: {os.getloadavg()[0]:.1f}",
        f"versions: Python {platform.python_version()}, "
        + ", ".join(f"{name} {found}" for name in packages if (found := _version(name)))
        + f", PostgreSQL {rivals.postgresql_version() or 'none'}",
    ]


def conclude(
    name: str,
    figures: Mapping[str, Figures],
    targets: Mapping[str, Target],
    *,
    quick: bool,
    as_json: bool,
) -> int:
    """Print each target and whether it holds, and the JSON line; the exit code."""
    holds = quick or all(target.holds for target in targets.values())
    print("", "| target | | |", "|---|--:|---|", sep="\n")
    for title, target in targets.items():
        verdict = "not judged" if quick else "holds" if target.holds else "**missed**"
        print(f"| {title} | {target.figure:.2f} ({target.bound} {target.limit:g}) | {verdict} |")
    if as_json:
        print(json.dumps(_report(name, figures, {} if quick else targets, holds)))
    return 0 if holds else 1


def _report(
    name: str, figures: Mapping[str, Figures], targets: Mapping[str, Target], holds: bool
) -> dict[str, object]:
    return {
        "name": name,
        "figures": {
            load: {title: round(value, 4) for title, value in of.items()}
            for load, of in figures.items()
        },
        "targets": {
            title: {
                "figure": round(target.figure, 3),
                "bound": f"{target.bound} {target.limit:g}",
                "holds": target.holds,
            }
            for title, target in targets.items()
        },
        "holds": holds,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
