"""Where files come from, as meterlake.toml names it: sources of files, and head-end systems."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

After = Literal["keep", "mark", "move"]

PORTS = {"sftp": 22, "ftp": 21, "ftps": 21}
PLACES = {  # the class in meterlake.sources that serves a kind of URL
    "file": "folder.FolderPlace",
    "sftp": "sftp.SftpPlace",
    "ftp": "ftp.FtpPlace",
    "ftps": "ftp.FtpPlace",
    "http": "http.HttpPlace",
    "https": "http.HttpPlace",
    "s3": "object_store.ObjectPlace",
    "gs": "object_store.ObjectPlace",
    "az": "object_store.ObjectPlace",
}
_BUCKETS = ("s3", "gs", "az")
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"

_HOST = re.compile(
    r"(?:(?P<user>[^@]*)@)?(?P<host>[^\s@:/\[\]]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?"
)


@dataclass(frozen=True)
class Address:
    """A source's URL, taken apart.

    `host` is the bucket of an object store, and empty for a folder; `path` may have `*`, `?` and
    `[…]` in its parts, and is what the place itself calls it: nothing in it is escaped.
    """

    kind: str
    host: str
    port: int | None
    user: str | None
    path: str


class SourceSettings(BaseModel):
    """Files that arrive somewhere and are to be taken in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        min_length=1,
        description="Which files: a folder's path, file://, sftp://, ftp://, ftps://, http://, "
        "https:// or s3://, with * and ? in its last parts, such as sftp://files.example/out/*.gz",
    )
    name: str = Field("", description="What it is called; unset: made of the url")
    user: str | None = Field(None, description="User name there; may be in the url instead")
    password_env: str | None = Field(
        None, description="Environment variable that holds the password"
    )
    password_file: Path | None = Field(None, description="File that holds the password")
    key_file: Path | None = Field(None, description="Private key file, instead of a password; SFTP")
    host_key: str | None = Field(
        None,
        description="The SFTP server's public key, such as 'ssh-ed25519 AAAA…', or its "
        "fingerprint, such as 'SHA256:…'",
    )
    known_hosts: Path | None = Field(
        None, description="OpenSSH known_hosts file with the SFTP server's key"
    )
    after: After = Field(
        "keep",
        description="What happens to a file at its source once taken in: it stays, is marked "
        "(NAME.taken), or is moved to the folder taken/ beside it",
    )
    settle_seconds: float = Field(
        10.0,
        ge=0,
        description="A file is complete when unchanged for this long [s]; 0: at first "
        "sight, for sources in which files appear whole",
    )
    profile: str | None = Field(
        None, description="Format of its files, a name or a profile file; unset: recognised"
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if name and not re.fullmatch(NAME, name):
            raise ValueError("needs letters, digits, _ and -, 64 at most")
        return name

    @field_validator("url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        address_of(url)
        return url

    @model_validator(mode="after")
    def _consistent(self) -> "SourceSettings":
        address = self.address
        secrets = [self.password_env, self.password_file, self.key_file]
        told = sum(value is not None for value in secrets)
        if told > 1:
            raise ValueError("needs one of password_env, password_file and key_file")
        if self.user and address.user and self.user != address.user:
            raise ValueError("needs one user; the url has another one than user")
        has_user = bool(self.user or address.user)
        if address.kind == "sftp" and not (has_user and told):
            raise ValueError("SFTP needs user, and one of password_env, password_file and key_file")
        if address.kind != "sftp" and any([self.key_file, self.host_key, self.known_hosts]):
            raise ValueError("key_file, host_key and known_hosts are for sftp:// alone")
        if address.kind in ("file", *_BUCKETS) and (has_user or told):
            raise ValueError(
                "user and password are for sftp, ftp and http; S3 takes the usual variables, "
                "such as AWS_ACCESS_KEY_ID"
            )
        if has_user != bool(told):
            raise ValueError("user and password_env or password_file go together")
        if address.kind in ("http", "https") and self.after != "keep":
            raise ValueError("after needs to be keep: nothing can be changed by HTTP")
        return self

    @property
    def address(self) -> Address:
        """Its URL, taken apart."""
        return address_of(self.url)

    @property
    def label(self) -> str:
        """Its name, or one made of the URL, the same each time."""
        if self.name:
            return self.name
        address = self.address
        words = re.findall(r"[A-Za-z0-9]+", f"{address.host} {address.path}")
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:6]
        return f"{'-'.join(words)[:50].strip('-') or address.kind}-{digest}"

    def __str__(self) -> str:
        return f"{self.label}: {self.url}"


def address_of(url: str, *, is_pattern: bool = True) -> Address:
    """Take a URL apart. Raises ValueError, without what may be a secret in it.

    With `is_pattern` it is a source's: `*` stands for any characters, a folder for its files.
    """
    path_of = _pattern if is_pattern else _plain
    kind, found, rest = url.partition("://")
    if not found:
        return Address("file", "", None, None, path_of(url))
    if kind not in PLACES:
        raise ValueError(f"needs a path or one of {', '.join(f'{k}://' for k in PLACES)}")
    authority, _, path = rest.partition("/")
    path = unquote(path)
    if kind == "file":
        if authority:
            raise ValueError("needs three slashes: file:///folder/*.gz")
        return Address(kind, "", None, None, path_of(f"/{path}"))
    if ":" in authority.rpartition("@")[0]:
        raise ValueError("has a password in it; set password_env or password_file instead")
    match = _HOST.fullmatch(authority)
    if match is None or int(match["port"] or 1) not in range(1, 65536):
        raise ValueError(f"needs a host after {kind}://, such as {kind}://files.example/out/*.gz")
    if kind in ("http", "https") and re.search("[?#]", rest):
        raise ValueError("needs an address without a query; * stands for any characters")
    user = unquote(match["user"] or "") or None
    port = int(match["port"]) if match["port"] else PORTS.get(kind)
    if kind in _BUCKETS:
        return Address(kind, authority, None, user, path_of(path))
    path = path.removeprefix("~/") if path.startswith("~/") else f"/{path}"
    return Address(kind, match["host"].strip("[]"), port, user, path_of(path))


def _pattern(path: str) -> str:
    """A path with what names files in it; a folder's means all of its files."""
    if "**" in path:
        raise ValueError("does not support **; give a source for each depth, such as */*.gz")
    return _plain(f"{path}*" if path.endswith("/") or not path else path)


def _plain(path: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise ValueError("needs a path without control characters")
    return path


class IntegrationSettings(BaseModel):
    """A head-end system that is pulled from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="Where its API is, such as https://hes.example")
    sftp: str = Field(description="Its SFTP server, host or host:port")
    user: str = Field(min_length=1, description="User name on the SFTP server")
    password_env: str | None = Field(
        None, description="Environment variable that holds the password"
    )
    password_file: Path | None = Field(None, description="File that holds the password")
    key_file: Path | None = Field(None, description="Private key file, instead of a password")
    host_key: str | None = Field(
        None,
        description="The SFTP server's public key, such as 'ssh-ed25519 AAAA…', or its "
        "fingerprint, such as 'SHA256:…'",
    )
    known_hosts: Path | None = Field(
        None, description="OpenSSH known_hosts file with the server's key"
    )
    first_date: datetime | None = Field(
        None, description="Arrivals are pulled from here on; unset: from the first one"
    )
    interval_minutes: float = Field(
        0.0, ge=0, description="Pause between pulls of hes pull --every [min]; 0: at each turn"
    )
    window_hours: float = Field(
        24.0, ge=0.01, le=8784, description="Longest window of arrivals in one file [h]"
    )
    wait_minutes: float = Field(
        15.0, gt=0, description="How long to wait for a file to be prepared [min]"
    )
    attempts: int = Field(
        3,
        ge=1,
        description="Attempts per pull, the first included; with --every it goes on forever",
    )
    retry_seconds: float = Field(
        5.0, ge=0, description="Pause after a first failure; doubled for each further one [s]"
    )
    retry_seconds_at_most: float = Field(900.0, ge=0, description="Longest of these pauses [s]")
    profile: str | None = Field(
        None, description="Format of its files, a name or a profile file; unset: recognised"
    )

    @model_validator(mode="after")
    def _one_secret(self) -> "IntegrationSettings":
        told = [self.password_env, self.password_file, self.key_file]
        if sum(value is not None for value in told) != 1:
            raise ValueError("needs one of password_env, password_file and key_file")
        return self

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        match = re.fullmatch(r"https?://([^/?#\s]+)(/[^?#\s]*)?", url)
        host = None if match is None or "@" in match[1] else _HOST.fullmatch(match[1])
        if host is None or int(host["port"] or 1) not in range(1, 65536):
            raise ValueError(
                "needs an address such as https://hes.example, without user, password or query"
            )
        return url

    @field_validator("sftp")
    @classmethod
    def _usable_port(cls, sftp: str) -> str:
        host = _HOST.fullmatch(sftp)
        if host is None or host["user"] is not None:
            raise ValueError(
                "needs a host or host:port, such as files.example:22; set user separately"
            )
        if int(host["port"] or 1) not in range(1, 65536):
            raise ValueError("needs a port of 1 to 65535")
        return sftp

    @property
    def sftp_host(self) -> tuple[str, int]:
        """Host and port of its SFTP server."""
        host = _HOST.fullmatch(self.sftp)
        assert host is not None
        return host["host"].strip("[]"), int(host["port"] or PORTS["sftp"])
