"""Commands of the API's keys: made, listed and revoked, in the lake that they open."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from meterlake import terminal
from meterlake.cli.options import (
    LakeOption,
    Output,
    OutputOption,
    existing_lake,
    to_duration,
)

commands = typer.Typer()

keys_app = typer.Typer(help="Keys of the REST API: make, list, revoke.", no_args_is_help=True)
commands.add_typer(keys_app, name="keys")


class KeyScope(StrEnum):
    """What a key allows."""

    read = "read"
    sql = "sql"
    admin = "admin"


@keys_app.command()
def create(
    name: Annotated[str, typer.Option("--name", help="Its holder, such as dashboards.")],
    scope: Annotated[
        list[KeyScope],
        typer.Option("--scope", help="What it allows; sql includes read, admin everything."),
    ],
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="Valid for 90d, 12h or 30m; default: until revoked."),
    ] = None,
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Create a key and print it once; the lake keeps only its hash.

    Example: meterlake keys create --name dashboards --scope read --expires 90d
    """
    from meterlake.serve.keys import create_key

    with existing_lake(lake) as here:
        as_json = output is Output.json
        lasts = None if expires is None else to_duration(expires, "--expires")
        now = here.clock()
        key, text = create_key(
            here.store,
            name=name,
            scopes=[one.value for one in scope],
            now=now,
            expires_at=None if lasts is None else now + lasts,
        )
        terminal.result(
            {
                "id": key.id,
                "name": key.name,
                "scopes": list(key.scopes) if as_json else ", ".join(key.scopes),
                "expires_at": key.expires_at if as_json or key.expires_at else "never",
                "key": text,
            },
            as_json,
        )
        print(
            "The key is not shown again: keep it where secrets are kept.",
            file=sys.stderr if as_json else sys.stdout,
        )


@keys_app.command("list")
def list_command(lake: LakeOption = None, output: OutputOption = Output.table) -> None:
    """List all keys, without their secrets: what each allows, and whether it is still valid.

    Example: meterlake keys list
    """
    from meterlake.serve.keys import list_keys

    with existing_lake(lake) as here:
        as_json, now = output is Output.json, here.clock()
        terminal.rows(
            "keys",
            [
                {
                    "id": key.id,
                    "name": key.name,
                    "scopes": list(key.scopes) if as_json else ", ".join(key.scopes),
                    "state": key.state(now),
                    "created_at": key.created_at,
                    "expires_at": key.expires_at,
                    "revoked_at": key.revoked_at,
                }
                for key in list_keys(here.store)
            ],
            as_json,
        )


@keys_app.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key; see keys list.")],
    lake: LakeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Revoke a key for good; a running server refuses it within 5 seconds.

    Example: meterlake keys revoke 3f9c01d2a4b5e678
    """
    from meterlake.serve.keys import revoke_key

    with existing_lake(lake) as here:
        key = revoke_key(here.store, id, now=here.clock())
        terminal.result(
            {"id": key.id, "name": key.name, "revoked_at": key.revoked_at}, output is Output.json
        )
