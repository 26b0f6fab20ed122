"""Write the dashboards' JSON: `make dashboards`."""

import argparse
import json
from pathlib import Path
from typing import Any

from dashboards.anomalies import anomalies
from dashboards.forecast import forecast
from dashboards.outages import outages
from dashboards.quality import quality
from dashboards.volt_var import volt_var
from dashboards.weather import weather
from meterlake.settings import ServeSettings

HERE = Path(__file__).parent


def boards(
    price: float = ServeSettings().price_per_kwh, currency: str = ServeSettings().currency
) -> dict[str, dict[str, Any]]:
    """All dashboards, by the name of their file."""
    return {
        "anomalies.json": anomalies(price, currency),
        "forecast.json": forecast(price, currency),
        "outages.json": outages(),
        "weather.json": weather(price, currency),
        "volt_var.json": volt_var(currency),
        "quality.json": quality(),
    }


def as_text(board: dict[str, Any]) -> str:
    """A dashboard as its file has it."""
    return json.dumps(board, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Write them beside this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--price", type=float, default=ServeSettings().price_per_kwh)
    parser.add_argument("--currency", default=ServeSettings().currency)
    asked = parser.parse_args()
    for name, board in boards(asked.price, asked.currency).items():
        (HERE / name).write_text(as_text(board), encoding="utf-8")
        print(f"dashboards/{name}: {board['title']}, {len(board['panels'])} panels")


if __name__ == "__main__":
    main()
