"""Passwords, from where the settings say that they are."""

import os
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from meterlake.errors import BadInput


class NamesPassword(Protocol):
    """Settings that say where a password is."""

    @property
    def password_env(self) -> str | None:
        """An environment variable that holds it."""

    @property
    def password_file(self) -> Path | None:
        """A file that holds it."""


def password(settings: NamesPassword, whose: str) -> SecretStr | None:
    """The password of `whose`, such as "Source 'outbox'"; None: there is none. Raises BadInput."""
    if settings.password_env is not None:
        found = os.environ.get(settings.password_env)
        if not found:
            raise BadInput(
                f"{whose} needs its password in the environment variable {settings.password_env}, "
                "which is not set"
            )
        return SecretStr(found)
    if settings.password_file is None:
        return None
    try:
        return SecretStr(settings.password_file.expanduser().read_text("utf-8").rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{whose} needs its password in the file {settings.password_file}, which cannot be "
            f"read: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from error
