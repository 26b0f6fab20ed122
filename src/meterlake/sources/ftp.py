"""An FTP server, in the clear or by TLS (ftps://), whose certificate is checked."""

import ftplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meterlake.errors import BadInput, Unavailable
from meterlake.source_settings import Address
from meterlake.sources.fetcher import PIECE_BYTES, Credentials, write_pieces
from meterlake.sources.port import FileUnavailable, Listed, Seen, SourceFile, Version, Wanted

_TIMEOUT_SECONDS = 30.0
_UNKNOWN_COMMAND = ("500", "501", "502", "504")


class FtpPlace:
    """The files of an FTP server, by one connection."""

    is_atomic = False

    def __init__(self, address: Address, who: Credentials) -> None:
        self._at = f"The FTP server {address.host}:{address.port}"
        self._lists = True  # by MLSD, which says sizes and times
        user = who.user or "anonymous"
        password = "" if who.secret is None else who.secret.get_secret_value()
        with self._reached():
            self._ftp = _Tls() if address.kind == "ftps" else ftplib.FTP()
            try:
                self._ftp.connect(address.host, address.port or 21, _TIMEOUT_SECONDS)
                self._login(user, password)
                self._ftp.voidcmd("TYPE I")
            except BaseException:
                self._ftp.close()
                raise

    def entries(self, folder: str, wanted: Wanted) -> Iterator[Listed]:
        """Files and folders in a folder, of the wanted names."""
        if self._lists:
            try:
                with self._reached():
                    found = list(self._ftp.mlsd(folder or "."))
                for name, facts in found:
                    kind = facts.get("type", "").lower()
                    if kind in ("file", "dir") and wanted(name):
                        yield Listed(name, self._told(folder + name, facts, kind))
                return
            except ftplib.error_perm as error:
                if str(error)[:3] not in _UNKNOWN_COMMAND:
                    raise self._no_folder(folder, error) from error
                self._lists = False
        try:
            with self._reached():
                names = self._ftp.nlst(folder or ".")
        except ftplib.error_perm as error:
            if str(error).startswith("550") and "file" in str(error).lower():
                return  # as some say that a folder is empty
            raise self._no_folder(folder, error) from error
        for name in {name.rpartition("/")[2] for name in names}:
            if wanted(name):
                yield Listed(name, self.version(folder + name))

    def version(self, path: str) -> Version | None:
        """A file as it is now; None: there is none."""
        with self._reached():
            try:
                self._ftp.voidcmd("TYPE I")
                size = self._ftp.size(path)
            except ftplib.error_perm:
                return None
            if size is None:
                return None
            try:
                modified = _moment(self._ftp.sendcmd(f"MDTM {path}")[4:])
            except ftplib.error_perm:
                modified = None
        return Version(size, modified)

    def fetch(self, file: SourceFile, to: Path, *, seen: Seen) -> None:
        """Fetch a file, from where `to` ends."""
        offset = to.stat().st_size if to.exists() else 0
        is_all_here = False
        try:
            with self._reached():
                self._ftp.voidcmd("TYPE I")
                data = self._ftp.transfercmd(f"RETR {file.path}", rest=offset or None)
                try:
                    pieces = iter(lambda: data.recv(PIECE_BYTES), b"")
                    write_pieces(pieces, to, size=file.version.size, seen=seen)
                    is_all_here = to.stat().st_size > file.version.size
                finally:
                    data.close()
                if is_all_here:  # and more, which is not waited for
                    self._ftp.close()
                else:
                    self._ftp.voidresp()
        except ftplib.error_perm as error:
            raise FileUnavailable(f"'{file.name}' cannot be fetched: {_said(error)}") from error
        if is_all_here:
            raise Unavailable(f"{self._at} sends more of '{file.name}' than it announced")

    def rename(self, path: str, to: str) -> None:
        """Give a file another path, whose folder is made where there is none."""
        with self._reached():
            with suppress(ftplib.error_perm):  # it is there
                self._ftp.mkd(to.rpartition("/")[0])
            try:
                self._ftp.rename(path, to)
            except ftplib.error_perm as error:
                raise FileUnavailable(
                    f"{self._at} does not let '{path}' become '{to}': {_said(error)}. It was "
                    "taken in; allow renaming there, or set after to keep"
                ) from error

    def close(self) -> None:
        """Take leave."""
        with suppress(ftplib.Error, EOFError, OSError):
            self._ftp.quit()
        self._ftp.close()

    def _login(self, user: str, password: str) -> None:
        try:
            if isinstance(self._ftp, ftplib.FTP_TLS):
                self._ftp.auth()
            self._ftp.login(user, password)
            if isinstance(self._ftp, ftplib.FTP_TLS):
                self._ftp.prot_p()
        except ftplib.error_perm as error:
            raise BadInput(
                f"{self._at} does not let '{user}' in: {_without(_said(error), password)}. Check "
                "the source's user and password_env or password_file"
            ) from error

    def _told(self, path: str, facts: dict[str, str], kind: str) -> Version | None:
        """A version as MDTM would say it too: of whole seconds."""
        if kind == "dir":
            return None
        if not facts.get("size", "").isdecimal() or "modify" not in facts:
            return self.version(path)
        return Version(int(facts["size"]), _moment(facts["modify"]))

    def _no_folder(self, folder: str, error: Exception) -> Unavailable:
        return Unavailable(f"{self._at} does not list '{folder}': {_said(error)}")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except ftplib.error_perm:
            raise
        except ssl.SSLCertVerificationError as error:
            raise BadInput(
                f"{self._at} shows a certificate that is not trusted: {error.verify_message}. "
                "Nothing was sent. Install a valid one there, or trust its issuer (SSL_CERT_FILE)"
            ) from error
        except (ftplib.Error, EOFError, OSError, UnicodeError) as error:
            raise Unavailable(
                f"{self._at} cannot be reached, or broke off: {_said(error)}. "
                "The part received so far is kept"
            ) from error


class _Tls(ftplib.FTP_TLS):
    """TLS whose certificate is checked, and whose data goes by the same session.

    Servers ask for that, so that nobody else takes the data's connection.
    """

    def __init__(self) -> None:
        super().__init__(context=ssl.create_default_context())

    def ntransfercmd(self, cmd: str, rest: Any = None) -> tuple[socket.socket, int | None]:
        data, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        session = self.sock.session if isinstance(self.sock, ssl.SSLSocket) else None
        return self.context.wrap_socket(data, server_hostname=self.host, session=session), size


def _moment(text: str) -> datetime | None:
    """A time as FTP tells it, 20240131050000 or with a fraction; to the second."""
    try:
        return datetime.strptime(text.strip()[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _said(error: BaseException) -> str:
    """What a server answered, or went wrong, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _without(text: str, secret: str) -> str:
    return text.replace(secret, "********") if secret else text
