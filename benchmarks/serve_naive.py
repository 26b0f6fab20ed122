"""What benchmarks/serve.py is beside: the endpoint as it is written in an hour, and the floor."""

import os
from datetime import datetime, timedelta
from typing import Any

import duckdb
from fastapi import FastAPI, Response

LAKE = os.environ["LAKE"]
naive, floor = FastAPI(), FastAPI()


@naive.get("/consumption/{meter_id}")
def consumption(
    meter_id: str, reading_date_from: str, reading_date_to: str
) -> list[dict[str, Any]]:
    """Of all hour partitions those of one meter."""
    start = datetime.strptime(reading_date_from, "%Y%m%d")  # noqa: DTZ007
    end = datetime.strptime(reading_date_to, "%Y%m%d") + timedelta(days=1)  # noqa: DTZ007
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        rows = connection.execute(
            "SELECT meter_id, reading_value, reading_date_time::TIMESTAMP::VARCHAR, reading_type "
            f"FROM read_parquet('{LAKE}/integrated/readings/parquet/reading_type=kw/**/*.parquet', "
            "hive_partitioning = true) WHERE meter_id = ? AND reading_date_time >= ? "
            "AND reading_date_time < ? ORDER BY reading_date_time",
            [meter_id, start, end],
        ).fetchall()
    names = ("meter_id", "reading_value", "reading_date_time", "reading_type")
    return [dict(zip(names, row, strict=True)) for row in rows]


_BYTES = b"[" + b",".join([b'{"meter_id":"' + b"0" * 120 + b'"}'] * 2880) + b"]"


@floor.get("/consumption/{meter_id}")
def nothing(meter_id: str, reading_date_from: str, reading_date_to: str) -> Response:
    """An answer of about the same size, made before."""
    return Response(_BYTES, media_type="application/json")
