"""The command that simulates a head-end system."""

import json
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meterlake import terminal
from meterlake.cli.options import Output, OutputOption, plain_errors, to_duration, to_moment
from meterlake.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from meterlake.simulate.head_end.options import Wanted
    from meterlake.simulate.head_end.run import Listening, Serving

commands = typer.Typer()
hes_app = typer.Typer(help="Head-end systems: pull from one, or simulate it.", no_args_is_help=True)
commands.add_typer(hes_app, name="hes")


FaultOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND:PERCENT",
        help="Faults to inject, and how often: slow, drop, truncate, error500, duplicate, "
        "out-of-order. May be given several times.",
    ),
]


@hes_app.command()
def serve(
    folder: Annotated[Path, typer.Option(help="Folder for its data.")] = Path("hes"),
    host: Annotated[str, typer.Option(help="Loopback address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0: a free one.")
    ] = 8081,
    sftp_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the SFTP server; 0: a free one.")
    ] = 2222,
    devices: Annotated[int, typer.Option(help="Number of meters.")] = 10_000,
    every: Annotated[str, typer.Option(help="Time between the reads of a meter.")] = "15m",
    late: Annotated[float, typer.Option(help="Share of meters that are late, in percent.")] = 10.0,
    late_minutes: Annotated[int, typer.Option(help="Delay of late meters in minutes.")] = 1440,
    speed: Annotated[
        str, typer.Option(help="How fast its clock runs; 96x: a day in 15 minutes.")
    ] = "1x",
    backfill: Annotated[
        str, typer.Option(help="Length of history to make at the first start.")
    ] = "30d",
    start: Annotated[
        str | None, typer.Option(help="First read; default: --backfill before now.")
    ] = None,
    user: Annotated[str, typer.Option(help="User of the SFTP server.")] = "meterlake",
    authorized_keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of public keys for that user's login."),
    ] = None,
    fault: FaultOption = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same reads.")] = 1,
    keep: Annotated[str, typer.Option(help="How long finished files are kept.")] = "7d",
    output: OutputOption = Output.table,
) -> None:
    """Simulate a head-end system until Ctrl-C: reads over time, an API, files by SFTP.

    Example: meterlake hes serve --devices 1000 --backfill 2d --speed 96x
    """
    signal.signal(signal.SIGTERM, _leave)
    with plain_errors():
        _check_packages()
        from meterlake.simulate.head_end.options import Wanted
        from meterlake.simulate.head_end.run import Listening

        wanted = Wanted(
            devices=devices,
            interval_minutes=_to_minutes(every),
            late_percent=late,
            late_minutes=late_minutes,
            seed=seed,
            start=None if start is None else to_moment(start, "--start"),
            backfill=to_duration(backfill, "--backfill", may_be_zero=True),
            speed=_to_speed(speed),
            keep=to_duration(keep, "--keep"),
        )
        listening = Listening(
            host=host, port=port, sftp_port=sftp_port, user=user, authorized_keys=authorized_keys
        )
        _play(folder, wanted, listening, fault or [], as_json=output is Output.json)


def _check_packages() -> None:
    try:
        import meterlake.simulate.head_end.run  # noqa: F401
    except ImportError as error:
        raise BadInput(
            "The simulated head-end system needs more packages: "
            f"pip install 'meterlake[hes]' (found: {error})"
        ) from error


def _play(
    folder: Path, wanted: "Wanted", listening: "Listening", faults: Sequence[str], *, as_json: bool
) -> None:
    """Run the head-end, and say where it listens once it does."""
    from meterlake.simulate.head_end.clock import machine_clock
    from meterlake.simulate.head_end.faults import read_faults
    from meterlake.simulate.head_end.run import serve as run

    def ready(at: "Serving") -> None:
        _tell(at, _integration(folder, at), as_json)

    faulty = read_faults(faults)
    run(folder, wanted, listening, faults=faulty, machine=machine_clock, ready=ready)


def _integration(folder: Path, at: "Serving") -> Path:
    """Write down what meterlake.toml needs to say, to pull from it."""
    secret = ("password_env", "METERLAKE_HES_PASSWORD")
    if at.password_file is not None:
        secret = ("password_file", str(at.password_file.resolve()))
    lines = {"url": at.api, "sftp": at.sftp_address, "user": at.user, secret[0]: secret[1]}
    lines["host_key"] = at.host_key
    text = "".join(f"{name} = {_quoted(value)}\n" for name, value in lines.items())
    path = folder / "integration.toml"
    try:  # the empty line is for who appends it to a file whose last line has no end
        path.write_text(f"\n[integration.hes]\n{text}", encoding="utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"--folder and --user need to be UTF-8: {error.reason}") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
    return path


def _quoted(text: str) -> str:
    """Text as TOML has it: as JSON does, but all that is not ASCII stands for itself."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _tell(at: "Serving", integration: Path, as_json: bool) -> None:
    """Where it listens, and how to get in."""
    facts: dict[str, object] = {
        "api": at.api,
        "sftp": at.sftp,
        "fingerprint": at.fingerprint,
        "host_key": at.host_key,
        "known_hosts": at.known_hosts,
        "password_file": at.password_file,
        "integration": str(integration),
    }
    if not as_json and at.password_file is None:
        facts["password_file"] = "none: METERLAKE_HES_PASSWORD"
    terminal.result(facts, as_json)
    print("" if as_json else "Ctrl-C stops it\n", end="", flush=True)


def _to_minutes(text: str) -> int:
    """What --every says. Raises BadInput."""
    minutes, rest = divmod(to_duration(text, "--every"), timedelta(minutes=1))
    if rest:
        raise BadInput(f"--every needs whole minutes, such as 15m or 1h; found '{text}'")
    return minutes


def _to_speed(text: str) -> float:
    """How often the machine's time: 96x. Raises BadInput."""
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 1 <= speed <= 100_000:
        raise BadInput(f"--speed needs to be 1x to 100000x, such as 96x; found '{text}'")
    return speed


def _leave(*_: object) -> None:
    """Nothing is under way yet that would have to be ended."""
    raise SystemExit(0)
