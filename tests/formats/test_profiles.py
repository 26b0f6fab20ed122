"""Profiles: any wide or long table to readings; the shipped ones on the real files."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterlake.errors import BadInput, NotReadable
from meterlake.formats import tabular
from meterlake.formats.port import Parsed
from meterlake.formats.profile import read_profile
from meterlake.formats.registry import named_format, recognise
from meterlake.formats.source import DeliveredFile
from meterlake.formats.tabular import ProfileFormat

LONG = """
name = "long_table"
meter = "nmi"
delimiter = ";"
interval_minutes = 30
quality = "flag"
[time]
column = "at"
zone = "Europe/London"
stamps = "end"
format = "%d/%m/%Y %H:%M"
[long]
type_column = "register"
value_column = "amount"
[values]
E1 = { type = "kw", unit = "Wh" }
V = { type = "vltg", unit = "kV" }
"""


def read_all(fmt: ProfileFormat, source: DeliveredFile) -> Parsed:
    parts = [fmt.parse(block) for block in fmt.split(source)]
    return Parsed(
        pl.concat([p.reads for p in parts], how="diagonal"),
        pl.concat([p.rejected for p in parts]),
        sum(p.rows for p in parts),
    )


def test_low_carbon_london_energy_of_a_half_hour_becomes_its_mean_power(shared_data: Path) -> None:
    path = shared_data / "lcl" / "CC_LCL-FullData.csv"
    source = DeliveredFile(path.name, str(path), "none")
    fmt = recognise(source, default_zone="UTC")
    assert fmt.name == "low_carbon_london"
    assert isinstance(fmt, ProfileFormat)
    reads, rejected = (p := read_all(fmt, source)).reads, p.rejected
    assert (reads.height, rejected.height) == (2022, 0)
    lines = path.read_text().splitlines()[1:]
    energy_kwh = sum(float(line.split(",")[3]) for line in lines)
    assert reads["kw"].sum() / 2 == pytest.approx(energy_kwh)
    # The first stamp, 00:30, ends the interval that begins at midnight.
    assert reads["reading_date_time"].min() == datetime(2012, 10, 12, tzinfo=UTC)


def test_smart_grid_smart_city_hours_stamped_twice_are_repaired(shared_data: Path) -> None:
    path = shared_data / "sgsc" / "sgsc_50.parquet"
    source = DeliveredFile(path.name, str(path), "none")
    fmt = recognise(source, default_zone="UTC")
    assert fmt.name == "smart_grid_smart_city"
    assert isinstance(fmt, ProfileFormat)
    reads, rejected = (p := read_all(fmt, source)).reads, p.rejected
    assert (reads.height, rejected.height) == (1_278_870, 0)
    raw = pl.read_parquet(path)
    doubled = raw.select("customer_id", "reading_datetime").is_duplicated().sum() // 2
    assert doubled == 158
    key = ["meter_id", "reading_date_time"]
    # Two hours of summer-time days are moved; four stamps are really there twice.
    assert reads.select(key).n_unique() == 1_278_870 - 4
    assert reads["kw"].sum() == pytest.approx(raw["general_supply_kwh"].sum() * 2)
    assert reads["kw_controlled"].null_count() == raw["controlled_load_kwh"].null_count() == 4119
    # The day summer time starts is whole and in calendar order again.
    day = raw.filter(
        pl.col("customer_id") == 10006572,
        pl.col("reading_datetime").dt.date() == datetime(2012, 10, 7).date(),  # noqa: DTZ001
    ).sort("calendar_key")
    start = datetime(2012, 10, 6, 14, tzinfo=UTC)  # midnight at +10:00
    mended = reads.filter(
        pl.col("meter_id") == "10006572",
        pl.col("reading_date_time").is_between(
            start, datetime(2012, 10, 7, 14, tzinfo=UTC), "left"
        ),
    ).sort("reading_date_time")
    assert mended["reading_date_time"].diff().drop_nulls().unique().len() == 1
    assert mended["kw"].to_list() == [2 * v for v in day["general_supply_kwh"]]


def test_a_long_table_with_its_own_zone_units_and_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(
        "nmi;at;register;amount;flag\n"
        "n1;01/07/2024 01:00;E1;500;A\n"
        "n1;01/07/2024 01:00;V;0.23;E\n"
        "n1;01/07/2024 01:30;X;1;\n"
        "n1;31/03/2024 01:30;E1;1;\n"
    )
    fmt = ProfileFormat(read_profile(LONG, origin="test"), default_zone="UTC")
    parsed = read_all(fmt, DeliveredFile("long.csv", str(path), "none"))
    assert parsed.reads.sort("source_row").select(
        "meter_id", "reading_date_time", "kw", "vltg", "quality"
    ).rows() == [
        ("n1", datetime(2024, 6, 30, 23, 30, tzinfo=UTC), 1.0, None, "A"),
        ("n1", datetime(2024, 6, 30, 23, 30, tzinfo=UTC), None, 230.0, "E"),
    ]
    reasons = parsed.rejected.sort("source_row")["reason"].to_list()
    assert "register needs to be one of E1, V, found 'X'" in reasons[0]
    assert "does not exist in Europe/London" in reasons[1]


def test_the_hour_that_a_clock_shows_twice_is_told_apart_by_the_rows_order(tmp_path: Path) -> None:
    path = tmp_path / "autumn.csv"
    path.write_text(
        "nmi;at;register;amount\n"
        "n1;27/10/2024 01:30;E1;1\n"
        "n1;27/10/2024 01:30;E1;2\n"
        "n1;27/10/2024 02:00;E1;3\n"
        "n2;27/10/2024 01:30;E1;4\n"
    )
    fmt = ProfileFormat(read_profile(LONG, origin="test"), default_zone="UTC")
    parsed = read_all(fmt, DeliveredFile("autumn.csv", str(path), "none"))
    hours = {
        r["source_row"]: r["reading_date_time"].strftime("%H:%M")
        for r in parsed.reads.iter_rows(named=True)
    }
    assert hours == {2: "00:00", 3: "01:00", 4: "01:30"}
    assert parsed.rejected["source_row"].to_list() == [5]


@pytest.mark.parametrize("empty", [0, 1])
def test_a_row_with_an_empty_cell_keeps_its_companion_of_the_repeated_hour(
    tmp_path: Path, empty: int
) -> None:
    profile = """
name = "wide"
interval_minutes = 30
meter = "meter"
time = { column = "at", zone = "Europe/London" }
[values]
kw = { type = "kw", unit = "kW" }
v = { type = "vltg", unit = "V" }
"""
    path = tmp_path / "autumn.csv"
    cells = ["230", "230"]
    cells[empty] = ""
    rows = [f"a,2024-10-27 01:30:00,{n},{volt}" for n, volt in enumerate(cells)]
    rows.append("a,2024-10-27 03:00:00,1,230")
    path.write_text("\n".join(["meter,at,kw,v", *rows, ""]))
    fmt = ProfileFormat(read_profile(profile, origin="test"), default_zone="UTC")
    parsed = read_all(fmt, DeliveredFile("autumn.csv", str(path), "none"))
    assert parsed.rejected.is_empty()
    reads = parsed.reads.sort("source_row")
    assert reads["reading_date_time"].dt.strftime("%H:%M").to_list() == ["00:30", "01:30", "03:00"]


def test_registers_of_a_long_table_are_told_apart_in_the_repeated_hour(tmp_path: Path) -> None:
    path = tmp_path / "autumn.csv"
    stamps = ["00:30", "01:30", "01:30"]
    rows = [
        f"n1;27/10/2024 {stamp};{register};{n}"
        for n, stamp in enumerate(stamps)
        for register in ("E1", "V")
    ][1:]  # E1 rises from the first, V from the second
    rows.append("n1;27/10/2024 02:00;E1;3")
    path.write_text("\n".join(["nmi;at;register;amount", *rows, ""]))
    fmt = ProfileFormat(read_profile(LONG, origin="test"), default_zone="UTC")
    parsed = read_all(fmt, DeliveredFile("autumn.csv", str(path), "none"))
    assert parsed.rejected.is_empty()
    times = parsed.reads.sort("source_row")["reading_date_time"].dt.strftime("%H:%M").to_list()
    assert times[1:] == ["00:00"] * 2 + ["01:00"] * 2 + ["01:30"]


@pytest.mark.parametrize("order", [",calendar_key", ""])
def test_a_doubled_hour_in_a_csv_is_ordered_by_number_or_else_by_row(
    tmp_path: Path, order: str
) -> None:
    path = tmp_path / "sgsc.csv"
    rows = [("01:30", 8, 1), ("02:00", 9, 2), ("02:00", 11, 3)]
    lines = [
        f"c1,2012-10-07 {time}:00,{kwh},0,0,0,0" + (f",{key}" if order else "")
        for time, key, kwh in rows
    ]
    header = "customer_id,reading_datetime,general_supply_kwh,controlled_load_kwh"
    header += ",gross_generation_kwh,net_generation_kwh,other_kwh" + order
    path.write_text("\n".join([header, *lines, ""]))
    source = DeliveredFile("sgsc.csv", str(path), "none")
    fmt = recognise(source, default_zone="UTC")
    assert isinstance(fmt, ProfileFormat)
    reads = read_all(fmt, source).reads.sort("reading_date_time")
    assert reads["kw"].to_list() == [2.0, 4.0, 6.0]
    assert reads["reading_date_time"].dt.hour().to_list() == [15, 16, 17]


def test_further_spellings_and_no_quotes(tmp_path: Path) -> None:
    text = LONG.replace('unit = "Wh" }', 'unit = "Wh", also = ["E01"] }').replace(
        'delimiter = ";"', 'delimiter = ";"\nquote = ""'
    )
    path = tmp_path / "t.csv"
    path.write_text('nmi;at;register;amount\n"n1;01/07/2024 01:00;E01;500\n')
    fmt = ProfileFormat(read_profile(text, origin="test"), default_zone="UTC")
    parsed = read_all(fmt, DeliveredFile("t.csv", str(path), "none"))
    assert parsed.reads.select("meter_id", "kw").rows() == [('"n1', 1.0)]


def test_without_a_zone_the_lakes_zone_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("m,t,v\nm1,2024-07-01 12:00:00,1\n")
    text = 'name="t"\nmeter="m"\n[time]\ncolumn="t"\n[values]\nv={type="kw",unit="kW"}\n'
    profile = read_profile(text, origin="test")
    for zone, hour in (("UTC", 12), ("Australia/Sydney", 2)):
        fmt = ProfileFormat(profile, default_zone=zone)
        reads = read_all(fmt, DeliveredFile("t.csv", str(path), "none")).reads
        assert reads["reading_date_time"][0] == datetime(2024, 7, 1, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('unit = "Wh"', 'unit = "A"'), "not from 'A'"),
        (('type = "kw"', 'type = "watt"'), "no reading type"),
        (("interval_minutes = 30\n", 'interval = "soon"\n'), "interval needs day, month"),
        (('zone = "Europe/London"', 'zone = "London"'), "no IANA zone"),
        (("delimiter =", "delimeter ="), "delimeter"),
        (("meter =", "metre ="), "metre: is not permitted"),
        (("name =", "name"), "TOML"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused(change: tuple[str, str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_profile(LONG.replace(*change), origin="test")


def test_a_profile_file_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LONG)
    assert named_format(str(path), default_zone="UTC").name == "long_table"
    with pytest.raises(BadInput, match="cannot be read"):
        named_format(str(tmp_path / "none.toml"), default_zone="UTC")


@settings(max_examples=25)
@given(block_bytes=st.integers(200, 5000), bad=st.sets(st.integers(0, 99), max_size=5))
def test_where_a_file_is_cut_does_not_change_what_it_says(
    block_bytes: int, bad: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [
        f"2024-01-01 00:00:{i % 60:02d},2024-01-01 00:01:00,m{i},readings,1,1,1,1,"
        f"{'x' if i in bad else i},1"
        for i in range(100)
    ]
    header = "time,arrival_time,device_id,measure_name,load,crrnt,pf,kva,kw,vltg"
    path = tmp_path_factory.mktemp("cut") / "a.csv"
    path.write_text("\n".join([header, *lines]))  # no line end at the end
    source = DeliveredFile("a.csv", str(path), "none")
    fmt = named_format("hes_csv", default_zone="UTC")
    assert isinstance(fmt, ProfileFormat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabular, "BLOCK_BYTES", block_bytes)
        patch.setattr(tabular, "PIECE_BYTES", 100)
        parsed = read_all(fmt, source)
    assert parsed.rejected["source_row"].sort().to_list() == sorted(i + 2 for i in bad)
    reads = {r["source_row"]: r["kw"] for r in parsed.reads.iter_rows(named=True)}
    assert reads == {i + 2: float(i) for i in range(100) if i not in bad}


def test_a_header_with_bare_carriage_returns_is_no_known_format(tmp_path: Path) -> None:
    path = tmp_path / "mac.csv"
    path.write_bytes(b"time,arrival_time,device_id\r1,2,3\r")
    with pytest.raises(NotReadable, match="no known format"):
        recognise(DeliveredFile("mac.csv", str(path), "none"), default_zone="UTC")


def test_a_quoted_cell_of_any_length_is_one_cell_or_one_rejected_row(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    cell = '"' + "x" * 200_000 + '"'
    path.write_text(f"nmi;at;register;amount\n{cell};01/07/2024 01:00;E1;oops\n")
    fmt = ProfileFormat(read_profile(LONG, origin="test"), default_zone="UTC")
    parsed = read_all(fmt, DeliveredFile("long.csv", str(path), "none"))
    assert parsed.rejected["reason"].to_list() == ["amount is not a number: 'oops'"]
