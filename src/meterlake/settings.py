"""The settings: defaults, meterlake.toml, environment, flags; the later wins."""

import os
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import to_jsonable_python
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from meterlake.errors import BadInput
from meterlake.source_settings import NAME, IntegrationSettings, SourceSettings

CONFIG_FILE = "meterlake.toml"

_MASTER = re.compile(
    r"local(\[(\d+|\*)(,\s*\d+)?\])?|local-cluster\[[\d,\s]+\]|yarn|k8s://.+"
    r"|spark://[^,]+:\d+(,[^,]+:\d+)*"
)


class EngineName(StrEnum):
    """Who runs the units of work."""

    local = "local"
    spark = "spark"


class GridSettings(BaseModel):
    """What the grid's analytics assume."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nominal_voltage_v: float = Field(
        220.0, gt=0, description="Nominal voltage at the meters [V]; the simulator's default"
    )
    voltage_low_percent: float = Field(
        5.0, ge=0, le=100, description="How far below it a voltage may be [%]; ANSI C84.1 range A"
    )
    voltage_high_percent: float = Field(
        5.0, ge=0, le=100, description="How far above it a voltage may be [%]; ANSI C84.1 range A"
    )
    cvr_set_point_v: float = Field(
        220.0,
        gt=0,
        description="Voltage that savings are measured against [V]; the guide's implementation",
    )
    cvr_factor: float = Field(
        0.8,
        description="Percent of energy for each percent of voltage [1]; the guide's implementation",
    )
    cvr_load_mw: float | None = Field(
        None,
        ge=0,
        description="Load of each transformer [MW]; unset: as measured; the guide's "
        "implementation assumes 1",
    )
    cvr_customers: int | None = Field(
        None,
        gt=0,
        description="Customers of each transformer; unset: its meters; the guide's "
        "implementation assumes 1000",
    )
    energy_price_per_kwh: float = Field(
        0.11,
        description="Price of energy to the utility [currency/kWh]; the guide's implementation",
    )
    customer_rate_per_kwh: float = Field(
        0.11,
        description="Price of energy to a customer [currency/kWh]; 11 cents in the guide's "
        "implementation",
    )
    carbon_lb_per_mwh: float = Field(
        900.0, ge=0, description="Carbon dioxide of energy [lb/MWh]; the guide's implementation"
    )
    outage_voltage_percent: float = Field(
        10.0,
        ge=0,
        le=100,
        description="Voltage below which there is no supply [% of nominal]; IEEE 1159",
    )
    outage_qualities: tuple[str, ...] = Field(
        (), description="Quality flags of reads that mean no supply"
    )
    outage_share_percent: float = Field(
        90.0,
        gt=0,
        le=100,
        description="Share of the meters below a node that are out together when it is out [%]",
    )
    outage_min_meters: int = Field(
        3, ge=1, description="Least number of meters out for a node to be out"
    )
    outage_meter_minutes: float = Field(
        60.0,
        ge=0,
        description="How long reads of a single meter are missing before they are reported [min]",
    )
    outage_max_days: int = Field(
        7, ge=1, le=31, description="A meter that is silent for longer counts as removed [d]"
    )
    momentary_minutes: float = Field(
        5.0, ge=0, description="Longest momentary interruption [min]; IEEE 1366"
    )


class MlSettings(BaseModel):
    """What forecasts and anomalies assume."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forecaster: str = Field(
        "networks",
        description="Forecaster to train: networks, lightgbm, or one of an installed package",
    )
    country: str | None = Field(
        None, description="Country of the public holidays, ISO 3166 code such as AU; unset: none"
    )
    subdivision: str | None = Field(
        None, description="State or province of the public holidays, such as NSW"
    )
    use_weather: bool = Field(
        True, description="Whether forecasts use temperature, where the lake has weather"
    )
    window_days: int = Field(
        395, ge=21, description="Days of readings to train on, up to the last [d]"
    )
    train_meters: int = Field(
        400,
        ge=2,
        description="Meters to train on, approximately: runs of 20, spread evenly over all",
    )
    train_rows: int = Field(
        800_000,
        ge=1000,
        description="Rows to train on, approximately: hours of meters, seen from an origin",
    )


class ServeSettings(BaseModel):
    """Where the server listens, who may ask it, and how much one question may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(
        "127.0.0.1",
        description="Address to listen at; any other than loopback needs API keys or OIDC",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen at; 0: a free one")
    processes: int = Field(1, ge=1, le=64, description="Number of server processes")
    keep_mb: int = Field(
        768,
        ge=0,
        description="Cache of each process for readings that are often requested [MB]; 0: none",
    )
    require_key: bool = Field(
        False, description="Whether a key is needed on loopback too; elsewhere it always is"
    )
    oidc_issuer: str | None = Field(
        None, description="URL of the OpenID Connect issuer whose tokens are accepted besides keys"
    )
    oidc_audience: str | None = Field(
        None, description="Audience required in these tokens; needed with oidc_issuer"
    )
    oidc_scope_claim: str = Field(
        "scope", description="Claim of these tokens that says read, sql or admin"
    )
    sql_seconds: float = Field(30.0, gt=0, description="Longest time of one SQL query [s]")
    sql_memory_mb: int = Field(1024, ge=64, description="Memory of one SQL query [MB]")
    sql_rows: int = Field(100_000, ge=1, description="Most rows of an SQL query's answer")
    sql_processes: int = Field(
        2, ge=1, le=64, description="SQL queries at a time, each in its own process"
    )
    price_per_kwh: float = Field(
        0.23, description="Price of energy, for costs that are shown [currency/kWh]"
    )
    map_tiles: str | None = Field(
        None,
        pattern=r"^https://[^{}/]+/.*\{z\}.*$",
        description="Tiles of the console's map, fetched by browsers, such as "
        "https://tile.openstreetmap.org/{z}/{x}/{y}.png; unset: none",
    )
    currency: str = Field("USD", description="Currency that costs are shown in, ISO 4217 code")


class Settings(BaseSettings):
    """Everything that can be set; `meterlake settings` prints it."""

    model_config = SettingsConfigDict(
        env_prefix="METERLAKE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
    )

    lake: str = Field("./lake", description="Where the lake is: a folder or s3://bucket/prefix")
    timezone: str = Field("UTC", description="IANA zone of local days, and of times without a zone")
    interval_minutes: float | None = Field(
        None,
        gt=0,
        description="Length of the intervals of readings whose file and profile say none [min]; "
        "unset: inferred from the file, and 15 for hes_csv",
    )
    late_after_minutes: float = Field(
        60.0, gt=0, description="A read is late when it arrives more than this after its time [min]"
    )
    late_hooks: Annotated[tuple[str, ...], NoDecode] = Field(
        ("log",),
        description="Hooks that are called with late reads: log, webhook, or an entry point's name",
    )
    late_webhook_url: SecretStr | None = Field(
        None, description="Where the webhook hook posts late reads as JSON"
    )
    cluster_after_integrate: bool = Field(
        True, description="Whether meterlake integrate also updates serving"
    )
    cluster_after_hours: float = Field(
        6.0,
        ge=0,
        description="Hours after its end at which a UTC day is closed and clustered by meter [h]",
    )
    merge_days: int = Field(
        8,
        ge=1,
        le=31,
        description="Days of a month that become one file; 31: whole months, 1: none",
    )
    merge_after_days: float = Field(
        3.0, ge=0, description="Days after the last of them at which they become one file [d]"
    )
    serving_file_rows: int = Field(
        2_000_000,
        ge=1,
        description="Rows per file of serving, approximately: larger days are cut by meter",
    )
    engine: EngineName = Field(
        EngineName.local,
        description="Who runs the units of work: threads of this process, or a cluster",
    )
    spark_master: str | None = Field(
        None,
        description="Spark's master: local[2], spark://host:7077, yarn, k8s://…; unset: as "
        "spark-submit or spark-defaults.conf say",
    )
    dataflow: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Options of dataflows, each in a section [dataflow.NAME] of meterlake.toml",
    )
    dataflow_attempts: int = Field(
        4, ge=1, le=20, description="Attempts of a dataflow's run to load, the first included"
    )
    dataflow_pause_seconds: float = Field(
        5.0, ge=0, description="Pause before its second attempt; doubled for each further one [s]"
    )
    integration: dict[Annotated[str, Field(pattern=NAME)], IntegrationSettings] = Field(
        default_factory=dict,
        description="Head-end systems to pull from, each in a section [integration.NAME]",
    )
    source: tuple[SourceSettings, ...] = Field(
        (),
        description="Sources of files that meterlake watch takes in, each in a section [[source]]",
    )
    grid: GridSettings = Field(
        GridSettings(), description="What the grid's analytics assume, in a section [grid]"
    )
    ml: MlSettings = Field(
        MlSettings(), description="What forecasts and anomalies assume, in a section [ml]"
    )
    serve: ServeSettings = Field(ServeSettings(), description="The server, in a section [serve]")
    workers: int = Field(
        min(4, os.cpu_count() or 1),
        ge=1,
        le=64,
        description="Units of work that the local engine runs at a time",
    )

    @property
    def interval_seconds(self) -> int | None:
        """Length of the intervals of readings whose file and profile say none [s]."""
        return None if self.interval_minutes is None else round(self.interval_minutes * 60)

    @field_validator("late_hooks", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("source")
    @classmethod
    def _different_sources(cls, value: tuple[SourceSettings, ...]) -> tuple[SourceSettings, ...]:
        names = [source.label for source in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"needs sources of different names; several are '{twice[0]}'")
        return value

    @field_validator("spark_master")
    @classmethod
    def _known_master(cls, value: str | None) -> str | None:
        if value is not None and not _MASTER.fullmatch(value):
            raise ValueError("not a master such as local[2], spark://host:7077, yarn or k8s://…")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError("not an IANA time zone such as Europe/London") from error
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over meterlake.toml."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def config_file() -> Path:
    """The settings file: METERLAKE_CONFIG, or meterlake.toml in the working folder."""
    return Path(os.environ.get("METERLAKE_CONFIG", CONFIG_FILE))


def load_settings(**flags: object) -> Settings:
    """Read the settings; `flags` that are None are left to the other sources.

    Raises
    ------
    BadInput
        The file is not TOML, or a setting is unknown or has a value that it cannot have.
    """
    try:
        return Settings(**{k: v for k, v in flags.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        problem = first["msg"].removeprefix("Value error, ")
        name = ".".join(str(part) for part in first["loc"])
        section = Settings.model_fields[name.split(".")[0]].default if "." in name else None
        within = type(section) if isinstance(section, BaseModel) else Settings
        if name.startswith("source."):
            within = SourceSettings
        fields = within.model_fields
        known, variable = ", ".join(fields), name.upper().replace(".", "__")
        raise BadInput(
            f"Setting '{name}': {problem}, found {_shown(name, first['input'])}; set it in "
            f"{config_file()}, as METERLAKE_{variable} or by its flag (settings: {known})"
        ) from error
    except ValueError as error:  # tomllib.TOMLDecodeError and undecodable bytes
        raise BadInput(f"{config_file()} needs to be a TOML file: {error}") from error


def settings_values(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The values of some settings as JSON has them, by name such as `grid.cvr_factor`."""
    values = {}
    for name in names:
        section, _, field = name.rpartition(".")
        within = getattr(settings, section) if section else settings
        values[name] = to_jsonable_python(getattr(within, field))
    return values


def settings_table(settings: Settings) -> list[dict[str, str]]:
    """Each setting's name, value (secrets hidden), default and meaning, for people."""
    listed = []
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.get_default(call_default_factory=True)
        parts = [(name, value, default, field.description)]
        if isinstance(value, BaseModel):
            parts = [
                (f"{name}.{part}", getattr(value, part), within.default, within.description)
                for part, within in type(value).model_fields.items()
            ]
        listed += [
            {
                "setting": full,
                "value": _shown(full, now),
                "default": _shown(full, usual),
                "environment": f"METERLAKE_{full.upper().replace('.', '__')}",
                "meaning": meaning or "",
            }
            for full, now, usual, meaning in parts
        ]
    return listed


def _shown(name: str, value: object) -> str:
    if name == "late_webhook_url" and value is not None:
        return "********"
    if re.match(r"source\.\d", name):  # an URL may have a password in it, where it must not
        return "one that cannot be used"
    if isinstance(value, dict):  # names alone: a value may be a key of somebody's API
        return ", ".join(f"{flow}.{name}" for flow, told in value.items() for name in told)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
