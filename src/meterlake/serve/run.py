"""The server process: uvicorn on the address of the settings, stopped gracefully."""

import http.client
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from time import sleep

import uvicorn
from uvicorn.supervisors import Multiprocess

from meterlake.delta.store import Store
from meterlake.errors import Unavailable
from meterlake.serve.access import check_address
from meterlake.serve.app import create_app
from meterlake.serve.keys import has_valid_key
from meterlake.settings import Settings

GRACE_SECONDS = 10  # for answers under way when the server is told to stop
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def serve(store: Store, settings: Settings, *, ready: Callable[[str], None]) -> None:
    """Serve a lake until SIGINT or SIGTERM; `ready` is told the address once it answers.

    Raises
    ------
    BadInput
        Others could reach the address and there is no key.
    Unavailable
        The address cannot be listened at.
    """
    of = settings.serve
    check_address(of.host, has_valid_key(store, now=datetime.now(UTC)), of.oidc_issuer is not None)
    with socket.socket(socket.AF_INET6 if ":" in of.host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((of.host, of.port))
        except OSError as error:
            raise Unavailable(
                f"The server cannot listen at {of.host}:{of.port}: {error.strerror}. Stop the "
                "process that does, or give another --port"
            ) from error
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            partial(create_app, store, settings),
            factory=True,
            workers=of.processes,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        threading.Thread(target=_tell, args=(of.host, port, ready), daemon=True).start()
        if of.processes > 1:
            Multiprocess(config, [listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])


def _tell(host: str, port: int, ready: Callable[[str], None]) -> None:
    while True:
        asking = http.client.HTTPConnection(_ANY.get(host, host), port, timeout=5)
        try:
            asking.request("GET", "/healthz", headers={"Host": f"localhost:{port}"})
            asking.getresponse().read()
            break
        except OSError:
            sleep(0.05)
        finally:
            asking.close()
    ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
