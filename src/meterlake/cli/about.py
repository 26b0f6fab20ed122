"""Commands about meterlake itself."""

import typer

from meterlake import terminal
from meterlake.cli.options import LakeOption, Output, OutputOption, plain_errors
from meterlake.settings import load_settings, settings_table

commands = typer.Typer()


@commands.command()
def formats(output: OutputOption = Output.table) -> None:
    """List the formats and profiles that ingest knows.

    Example: meterlake formats
    """
    from meterlake.formats.profile import Profile
    from meterlake.formats.registry import known_formats

    with plain_errors():
        settings = load_settings()
        known = known_formats(default_zone=settings.timezone)
        terminal.rows(
            "formats",
            [
                {
                    "format": name,
                    "meaning": p.description
                    if isinstance(p := getattr(f, "profile", None), Profile)
                    else type(f).__module__,
                }
                for name, f in known.items()
            ],
            output is Output.json,
        )


@commands.command()
def settings(lake: LakeOption = None, output: OutputOption = Output.table) -> None:
    """Show every setting: its value, default, variable and meaning; secrets stay hidden.

    Example: meterlake settings
    """
    with plain_errors():
        terminal.rows("settings", settings_table(load_settings(lake=lake)), output is Output.json)
