"""The command that serves the lake."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from meterlake.cli.options import LakeOption, plain_errors
from meterlake.errors import BadInput, Unavailable

commands = typer.Typer()


@commands.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen at; default: the setting serve.host.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0: a free one; default: the setting serve.port.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Number of server processes; default: one.")
    ] = None,
    lake: LakeOption = None,
) -> None:
    """Serve the lake until Ctrl-C: the console for people, the REST API for programs.

    Example: meterlake serve --port 8080
    """
    with plain_errors():
        given = {"host": host, "port": port, "processes": processes}
        serve_lake(lake, {name: value for name, value in given.items() if value is not None})


def serve_lake(lake: str | None, flags: Mapping[str, Any], *, or_free_port: bool = False) -> None:
    """Serve a lake until Ctrl-C, telling where; `or_free_port`: elsewhere if the port is taken."""
    from meterlake.lake import open as open_lake
    from meterlake.settings import load_settings

    try:
        from meterlake.serve.run import serve as run
    except ImportError as error:
        raise BadInput(
            f"The server needs more packages: pip install 'meterlake[serve]' (found: {error})"
        ) from error
    settings = load_settings(lake=lake)
    of = settings.serve.model_copy(update=dict(flags))
    if not 0 <= of.port <= 65535:
        raise BadInput(f"--port needs to be 0 to 65535; found {of.port}")
    store = open_lake(settings=settings, may_be_new=False).store

    def ready(address: str) -> None:
        print(f"Serving {store.url} at {address} (Ctrl-C stops it)", flush=True)

    try:
        run(store, settings.model_copy(update={"serve": of}), ready=ready)
    except Unavailable:
        if not or_free_port or of.port == 0:
            raise
        of = of.model_copy(update={"port": 0})
        run(store, settings.model_copy(update={"serve": of}), ready=ready)
