"""Which formats there are, and which one a file is."""

from functools import cache
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path

from meterlake.errors import BadInput, NotReadable
from meterlake.formats.port import Format
from meterlake.formats.profile import Profile, read_profile, read_profile_file
from meterlake.formats.source import DeliveredFile
from meterlake.formats.tabular import ProfileFormat

ENTRY_POINT_GROUP = "meterlake.formats"


def known_formats(*, default_zone: str) -> dict[str, Format]:
    """All formats by name: those of installed packages first, then the shipped profiles."""
    formats: dict[str, Format] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        formats[point.name] = point.load()
    for profile in _shipped_profiles():
        formats.setdefault(profile.name, ProfileFormat(profile, default_zone=default_zone))
    return formats


@cache
def _shipped_profiles() -> tuple[Profile, ...]:
    files = sorted(resources.files(__package__).joinpath("profiles").iterdir(), key=str)
    return tuple(
        read_profile(file.read_text(encoding="utf-8"), origin=file.name)
        for file in files
        if file.name.endswith(".toml")
    )


def named_format(name: str, *, default_zone: str) -> Format:
    """The format of that name, or the profile in that file. Raises BadInput."""
    formats = known_formats(default_zone=default_zone)
    if name in formats:
        return formats[name]
    if name.endswith(".toml") or Path(name).exists():
        return ProfileFormat(read_profile_file(Path(name)), default_zone=default_zone)
    raise BadInput(
        f"--profile needs one of {', '.join(formats)} or a profile's TOML file; found '{name}'"
    )


def profile_of(fmt: Format) -> str | None:
    """The whole profile that a format reads by, as JSON; None: it is a package's format."""
    return fmt.profile.model_dump_json() if isinstance(fmt, ProfileFormat) else None


def recorded_format(name: str, profile: str | None, *, default_zone: str) -> Format:
    """The format that a file was read by. Raises BadInput where its package is gone."""
    if profile is None:
        return named_format(name, default_zone=default_zone)
    return ProfileFormat(Profile.model_validate_json(profile), default_zone=default_zone)


def recognise(source: DeliveredFile, *, default_zone: str) -> Format:
    """The format of a delivered file, from its first bytes.

    Raises
    ------
    NotReadable
        It is empty, or no format knows it.
    """
    head = source.head()
    if not head.strip():
        raise NotReadable(f"'{source.name}' needs a header and rows; it is empty. Deliver it again")
    formats = known_formats(default_zone=default_zone)
    for candidate in formats.values():
        if candidate.recognises(source, head):
            return candidate
    begin = head.split(b"\n", 1)[0][:100].decode("utf-8", errors="replace")
    first = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in begin)
    raise NotReadable(
        f"'{source.name}' has no known format ({', '.join(formats)}); it begins with "
        f"'{first.strip()}'. Describe its columns in a profile and name it with --profile FILE"
    )
