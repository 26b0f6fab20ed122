"""A Spark standalone cluster for tests: a master and workers as processes on 127.0.0.1.

They come from the installed pyspark. Each worker is a process group of its own with the
executors that it starts, so that a machine that goes away is one kill.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

WAIT = 60.0  # seconds after which a process that is not there is given up

# Small and short-lived: quickly compiled code, and one thread for the garbage.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"
DEFAULTS = f"""\
spark.driver.extraJavaOptions {JAVA_OPTIONS}
spark.executor.extraJavaOptions {JAVA_OPTIONS}
spark.driver.bindAddress 127.0.0.1
spark.driver.host 127.0.0.1
spark.executor.memory 512m
spark.driver.memory 512m
spark.ui.enabled false
spark.log.level ERROR
"""


class SparkCluster:
    """A master and workers of one core each that run as long as the ``with`` block."""

    def __init__(self, workers: int = 2) -> None:
        self._count = workers
        self._folder = Path(tempfile.mkdtemp(prefix="meterlake-spark-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._web = ""
        self.master = ""
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        import pyspark

        self._home = Path(pyspark.__file__).parent
        (self._folder / "conf").mkdir()
        (self._folder / "conf" / "spark-defaults.conf").write_text(DEFAULTS)
        port, web = _free_ports(2)
        self.master, self._web = f"spark://127.0.0.1:{port}", f"http://127.0.0.1:{web}/json/"
        try:
            self._start("master.Master", "--port", str(port), "--webui-port", str(web))
            self._wait_for(0)  # before there is a master, a worker tries only every 5 seconds
            self.add_workers(self._count)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """The variables by which a driver in another process is configured for this cluster."""
        return {
            "SPARK_CONF_DIR": str(self._folder / "conf"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self._folder / "local"),
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_LAUNCHER_OPTS": JAVA_OPTIONS,
        }

    def submit(self, script: Path, *args: str) -> "subprocess.Popen[bytes]":
        """Start a script with spark-submit, in a process group of its own."""
        command = [str(self._home / "bin" / "spark-submit"), "--master", self.master, str(script)]
        return subprocess.Popen(
            [*command, *args],
            env=os.environ | self.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def add_workers(self, count: int) -> None:
        """Start workers and wait until the master knows them."""
        alive = self.alive()
        for _ in range(count):
            work = self._folder / f"work-{len(self._processes)}"
            size = ("--cores", "1", "--memory", "1g")
            place = ("--webui-port", "0", "--work-dir", str(work))
            self.workers.append(self._start("worker.Worker", *size, *place, self.master))
        self._wait_for(alive + count)

    def stop_worker(self) -> None:
        """The worker that is killed next stands still from now on, with its executors."""
        os.killpg(self.workers[0].pid, signal.SIGSTOP)

    def kill_worker(self) -> None:
        """A machine goes away: a worker and its executors, at once."""
        _kill(self.workers.pop(0))

    def alive(self) -> int:
        """How many workers the master takes to be alive."""
        with urllib.request.urlopen(self._web, timeout=10) as answer:
            return int(json.load(answer)["aliveworkers"])

    def stop(self) -> None:
        """End all of it and remove what it leaves behind."""
        for process in self._processes:
            _kill(process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, what: str, *args: str) -> "subprocess.Popen[bytes]":
        log = self._folder / f"{len(self._processes)}.log"
        daemon = {"SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": JAVA_OPTIONS}
        ours = {k: v for k, v in os.environ.items() if k != "POLARS_MAX_THREADS"}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(self._home / "bin" / "spark-class"), f"org.apache.spark.deploy.{what}",
                 "--host", "127.0.0.1", *args],
                env=ours | self.environment() | daemon,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _wait_for(self, workers: int) -> None:
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            with suppress(OSError):
                if self.alive() >= workers:
                    return
            ended = [p for p in self._processes if p.poll() is not None and p.returncode > 0]
            if ended:
                break
            time.sleep(0.05)
        logs = "\n".join(p.read_text(errors="replace")[-2000:] for p in self._folder.glob("*.log"))
        raise RuntimeError(f"the Spark cluster did not come up:\n{logs}")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
