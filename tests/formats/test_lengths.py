"""How long a reading's interval is: stated by the file, the profile or the lake, else inferred."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterlake.delta.store import Store, open_store
from meterlake.engine.local import LocalEngine
from meterlake.formats import tabular
from meterlake.formats.lengths import inferred, lengths_at, parsed_length
from meterlake.ingest import intake
from meterlake.ingest.intake import IngestOptions
from meterlake.integrate.derivations import cluster, integrate
from meterlake.pipeline import upkeep
from meterlake.pipeline.derivation import Session
from meterlake.questions.sql import query
from meterlake.readings.consumption import read_consumption
from meterlake.readings.reader import Reader
from meterlake.settings import Settings, load_settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
MINUTE = timedelta(minutes=1)

Energy = list[tuple[str, float, bool]]
Take = Callable[..., intake.FileBalance]


def profile(head: str = "", *, time: str = "", unit: str = "kWh") -> str:
    return (
        f'name = "ours"\nmeter = "meter"\n{head}\n[time]\ncolumn = "at"\n{time}\n'
        f'[values]\nvalue = {{ type = "kw", unit = "{unit}" }}\n'
    )


def table(*rows: tuple[str, datetime, float], more: str = "") -> str:
    lines = [f"{meter},{at:%Y-%m-%dT%H:%M:%SZ},{value}{more}" for meter, at, value in rows]
    return "\n".join(["meter,at,value" + (",length" if more else ""), *lines, ""])


def conf(zone: str = "UTC", **more: Any) -> Settings:
    return load_settings(late_hooks=(), timezone=zone, **more)


class Lake:
    """A lake that files of these tests go into."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.store: Store = open_store(str(folder / "lake"))

    @property
    def session(self) -> Session:
        return Session(self.store, LocalEngine(1), self.settings, NOW)

    def take(self, file: Path, toml: str | Path, *, strict: bool = False) -> intake.Ingested:
        if isinstance(toml, str):
            (self.folder / "p.toml").write_text(toml)
            toml = self.folder / "p.toml"
        options = IngestOptions(strict=strict)
        done = intake.ingest(self.session, [str(file)], profile=str(toml), options=options)
        integrate(self.session)
        cluster(self.session)
        return done

    def taken(self, text: str, toml: str, **more: Any) -> intake.FileBalance:
        path = self.folder / "a.csv"
        path.write_text(text)
        done = self.take(path, toml, **more)
        assert done.failures == []
        return done.balance[0]

    def energy(self, meter: str, by: Any = "day") -> Energy:
        rows = read_consumption(
            Reader(self.store), meter, by=by, zone=self.settings.timezone
        ).select("date", "energy_kwh", "is_complete")
        return [(str(date), round(kwh, 6), whole) for date, kwh, whole in rows.rows()]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path, conf())


def day(minutes: int, kwh: float, *, every: int = 1, meter: str = "m") -> list[Any]:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    steps = range(0, 1440 // minutes, every)
    return [(meter, start + n * minutes * MINUTE, kwh) for n in steps]


# --- the half-delivered meter


def test_of_every_second_quarter_hour_half_the_energy_is_there(lake: Lake) -> None:
    lake.taken(table(*day(15, 0.25, every=2)), profile("interval_minutes = 15"))
    assert lake.energy("m") == [("2024-01-01", 12.0, False)]
    sql = "SELECT energy_kwh, intervals, intervals_expected, is_complete FROM consumption_daily"
    assert query(lake.store, sql).rows() == [(12.0, 48, 96, False)]
    assert upkeep.check(lake.session).findings == ()


def test_the_whole_file_tells_a_length_that_nobody_says(lake: Lake) -> None:
    rows = [*day(15, 0.25, every=2, meter="half"), *day(15, 0.25, meter="full")]
    done = lake.taken(table(*rows), profile())
    assert (done.interval_seconds, done.length_source) == (900, "inferred")
    assert lake.energy("half") == [("2024-01-01", 12.0, False)]
    assert lake.energy("full") == [("2024-01-01", 24.0, False)]


# --- who says it: the file, else the profile, else the lake


@pytest.mark.parametrize(
    ("head", "more", "lake_minutes", "seconds", "source"),
    [
        ('interval_column = "length"', ",PT1H", 30, 3600, "file"),
        ('interval_column = "length"', ",60", None, 3600, "file"),
        ("interval_minutes = 60", "", 30, 3600, "profile"),
        ('interval = "PT1H"', "", None, 3600, "profile"),
        ('interval = "lake"', "", 60, 3600, "lake"),
        ("", "", 60, 3600, "lake"),
        ("", "", None, 3600, "inferred"),
    ],
)
def test_the_first_that_says_a_length_is_believed(
    tmp_path: Path, head: str, more: str, lake_minutes: int | None, seconds: int, source: str
) -> None:
    lake = Lake(tmp_path, conf(interval_minutes=lake_minutes))
    lake.taken(table(*day(60, 1.0), more=more), profile(head))
    sql = "SELECT DISTINCT interval_seconds, length_source FROM {} ORDER BY ALL"
    for name in ("staging", "readings", "serving_readings"):
        assert query(lake.store, sql.format(name)).rows() == [(seconds, source)]
    assert lake.energy("m") == [("2024-01-01", 24.0, source != "inferred")]


def test_a_head_end_systems_file_takes_it_from_the_lake(
    tmp_path: Path, deliver: Callable[..., Path]
) -> None:
    rows = [f"{at:%F %T},{at:%F %T},{m},readings,,,,,{kw},220" for m, at, kw in day(30, 2.0)]
    for minutes, kwh in ((30, 48.0), (None, 24.0)):
        lake = Lake(tmp_path, conf(lake=str(tmp_path / f"lake{minutes}"), interval_minutes=minutes))
        lake.store = open_store(str(tmp_path / f"lake{minutes}"))
        done = intake.ingest(lake.session, [str(deliver("a.csv", *rows))])
        assert ("30 min apart" in done.balance[0].contradiction) is (minutes is None)
        integrate(lake.session)
        cluster(lake.session)
        assert lake.energy("m") == [("2024-01-01", kwh, minutes == 30)]


def test_without_a_length_power_has_no_energy_and_energy_is_refused(lake: Lake) -> None:
    one = table(("m", datetime(2024, 1, 1, tzinfo=UTC), 1.0))
    (lake.folder / "a.csv").write_text(one)
    done = lake.take(lake.folder / "a.csv", profile())
    assert "needs the length of its intervals" in done.failures[0].reason
    lake.taken(one, profile(unit="kW"))
    rows = query(lake.store, "SELECT energy_kwh, intervals FROM consumption_daily").rows()
    assert rows == [(None, 1)]


# --- contradictions


def test_stamps_that_contradict_the_profile_are_told_and_strictly_refused(lake: Lake) -> None:
    (lake.folder / "a.csv").write_text(table(*day(15, 0.25)))
    done = lake.take(lake.folder / "a.csv", profile("interval_minutes = 60"), strict=True)
    assert "refused by --strict" in done.failures[0].reason
    balance = lake.taken(table(*day(15, 0.25)), profile("interval_minutes = 60"))
    assert "60 min, and 100% of the rows come sooner" in balance.contradiction
    assert lake.energy("m") == [("2024-01-01", 24.0, False)]


def test_a_row_whose_own_length_is_not_the_profiles_is_set_aside(lake: Lake) -> None:
    rows = [f"m,2024-01-01 {h:02d}:00:00,1,2024-01-01 {h + 1:02d}:00:00" for h in range(23)]
    rows.append("m,2024-01-01 00:00:00,23,2024-01-02 00:00:00")
    text = "\n".join(["meter,at,value,until", *rows, ""])
    balance = lake.taken(text, profile("interval_minutes = 60", time='end = "until"'))
    assert (balance.stored, balance.quarantined) == (23, 1)
    reason = query(lake.store, "SELECT reason FROM quarantine").item()
    assert reason == "lasts 86400 s, where the profile says 3600 s"


@settings(max_examples=4)
@given(
    minutes=st.sampled_from([(60, 15), (15, 60), (60, 30), (30, 5)]),
    block=st.sampled_from([200, 700, 10_000_000]),
)
def test_a_change_of_step_gives_each_part_its_own_wherever_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, minutes: tuple[int, int], block: int
) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [
        ("m", start + number * timedelta(days=1) + n * step * MINUTE, step / 60)
        for number, step in enumerate(minutes)
        for n in range(1440 // step)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabular, "BLOCK_BYTES", block)
        for head in ("", f"interval_minutes = {max(minutes)}"):
            lake = Lake(tmp_path_factory.mktemp("step"), conf())
            lake.taken(table(*rows), profile(head))
            energies = [kwh for _, kwh, _ in lake.energy("m")]
            assert energies == pytest.approx([24.0, 24.0])
            lengths = query(lake.store, "SELECT DISTINCT interval_seconds FROM readings")
            assert set(lengths["interval_seconds"]) == {60 * step for step in minutes}


# --- local days and months


@pytest.mark.parametrize(
    "zone", ["Europe/Paris", "America/Havana", "Australia/Lord_Howe", "+02:00"]
)
@pytest.mark.parametrize("ends", [False, True])
def test_a_day_is_the_local_one(zone: str, ends: bool) -> None:
    if zone == "+02:00":
        midnights = [datetime(2024, 3, d, 22, tzinfo=UTC) for d in range(1, 29)]
    else:
        clock = ZoneInfo(zone)
        midnights = [
            datetime(2024, month, d, tzinfo=clock).astimezone(UTC)
            for month in (3, 4, 10, 11)
            for d in range(1, 29)
        ]
    for length in ("day", 86_400):
        stamps = pl.Series(midnights, dtype=pl.Datetime("us", "UTC"))
        found = lengths_at(stamps, length, zone, ends=ends)
        for stamp, seconds in zip(midnights, found, strict=True):
            away = timedelta(seconds=-seconds if ends else seconds)
            local = (stamp + away).astimezone(ZoneInfo("Etc/GMT-2" if zone[0] == "+" else zone))
            before = stamp.astimezone(local.tzinfo)
            assert abs((local.date() - before.date()).days) == 1
            assert local.hour in (0, 1)  # in Havana one midnight does not exist
            assert local.minute == 0


def test_a_month_is_the_local_one(lake: Lake) -> None:
    rows = [("m", datetime(2024, month, 1, tzinfo=UTC), 100.0) for month in (1, 2, 3)]
    lake.taken(table(*rows), profile('interval = "month"'))
    assert lake.energy("m") == []
    assert lake.energy("m", "month") == [
        ("2024-01-01", 100.0, True), ("2024-02-01", 100.0, True), ("2024-03-01", 100.0, True),
    ]  # fmt: skip
    assert upkeep.check(lake.session).findings == ()


def test_an_interval_across_midnight_counts_in_the_week_and_the_month(lake: Lake) -> None:
    at = datetime(2024, 1, 1, 0, 20, tzinfo=UTC)
    rows = [("m", at + n * 60 * MINUTE, 1.0) for n in range(71)]
    lake.taken(table(*rows), profile("interval_minutes = 60"))
    assert [kwh for _, kwh, _ in lake.energy("m")] == [23.0, 23.0, 23.0]
    assert [kwh for _, kwh, _ in lake.energy("m", "week")] == [71.0]
    assert [kwh for _, kwh, _ in lake.energy("m", "month")] == [71.0]


# --- what says a length, and what does not


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("PT15M", 900), ("PT1H30M", 5400), ("PT30S", 30), ("P1D", "day"), ("P1M", "month"),
        ("15", 900), ("0.5", 30), (" day ", "day"), ("month", "month"), ("PT24H", 86_400),
        ("", None), ("0", None), ("PT", None), ("P", None), ("-15", None), ("quarter", None),
    ],
)  # fmt: skip
def test_a_length_is_written_in_these_ways(text: str, length: object) -> None:
    assert parsed_length(text) == length


@settings(max_examples=30)
@given(
    step=st.sampled_from([60, 300, 900, 1800, 3600]),
    meters=st.integers(1, 4),
    lost=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 999),
)
def test_the_step_of_a_file_is_that_of_its_meters_whatever_their_offset(
    step: int, meters: int, lost: float, seed: int
) -> None:
    chance = random.Random(seed)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [
        (f"m{m}", start + timedelta(seconds=7 * m + n * step))
        for m in range(meters)
        for n in range(200)
        if chance.random() >= lost
    ]
    frame = pl.DataFrame(
        rows,
        schema={"meter_id": pl.String, "reading_date_time": pl.Datetime("us", "UTC")},
        orient="row",
    )
    for ends in (False, True):
        found = inferred(frame.sample(fraction=1.0, shuffle=True, seed=seed), ends=ends)
        assert found is not None
        assert found.pieces == ((found.pieces[0][0], step),)


# --- the cases of the shared folder, as their READMEs say


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared is not beside this checkout")
@pytest.mark.parametrize("name", ["kwh_60.toml", "kwh_15.toml", None])
def test_g08_energy_delivered_is_energy_answered(lake: Lake, name: str | None) -> None:
    (case,) = CASES.glob("g08-*")
    toml = case / name if name else profile().replace("value =", "kwh =")
    done = lake.take(case / "kwh_no_column.csv", toml)
    assert [kwh for _, kwh, _ in lake.energy("C")] == [24.0, 24.0]
    assert (done.balance[0].length_source == "inferred") is (name is None)
    assert bool(done.balance[0].contradiction) is (name == "kwh_60.toml")


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared is not beside this checkout")
def test_g08_a_column_says_each_rows_length(lake: Lake) -> None:
    (case,) = CASES.glob("g08-*")
    toml = profile('interval_column = "resolution"').replace("value =", "kwh =")
    lake.take(case / "kwh_with_column.csv", toml)
    assert lake.energy("A") == lake.energy("B") == [("2024-01-01", 24.0, True)]


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared is not beside this checkout")
@pytest.mark.parametrize("head", ["", "interval_minutes = 30"])
def test_g08_power_stamped_at_its_end(tmp_path: Path, head: str) -> None:
    (case,) = CASES.glob("g08-*")
    lake = Lake(tmp_path, conf("Europe/Paris"))
    toml = (
        f'name = "w"\nmeter = "meter"\ndelimiter = ";"\n{head}\n[time]\ncolumn = "Horodate"\n'
        'zone = "Europe/Paris"\nstamps = "end"\n[values]\nValeur = { type = "kw", unit = "W" }\n'
    )
    lake.take(case / "w_end_stamps.csv", toml)
    assert [kwh for _, kwh, _ in lake.energy("F1")] == [24.0, 24.0, 24.0]


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared is not beside this checkout")
def test_g09_daily_reads_have_their_energy(tmp_path: Path) -> None:
    (case,) = CASES.glob("g09-*")
    lake = Lake(tmp_path, conf("Europe/Paris"))
    lake.take(case / "daily.csv", case / "daily.toml")
    wanted = pl.read_csv(case / "expected_energy.csv")
    days = [(d, float(k), c) for d, k, c in wanted.rows() if "month" not in d]
    assert lake.energy("D1") == days
    assert lake.energy("D1", "month") == [
        ("2024-03-01", 96.0, False), ("2024-04-01", 48.0, False),
    ]  # fmt: skip


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared is not beside this checkout")
def test_g14_a_total_among_the_intervals_is_set_aside(lake: Lake) -> None:
    (case,) = CASES.glob("g14-*")
    toml = (case / "with_total.toml").read_text()
    toml = toml.replace('column = "from"', 'column = "from"\nend = "to"')
    lake.take(case / "with_total.csv", toml)
    assert lake.energy("T1") == [("2024-01-01", 10.0, True)]
    assert query(lake.store, "SELECT count(*) FROM quarantine").item() == 1
