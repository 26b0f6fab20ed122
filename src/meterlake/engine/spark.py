"""The Spark engine: units become tasks of a cluster, and the driver takes their results.

Polars does the work, Spark places it: a task is the same pure function that the local engine
calls, on one unit. Nothing is shuffled and no table goes through Spark, so it needs neither
its SQL nor a connector. Spark may try a task again, elsewhere, or twice at once; each attempt
writes files of its own, and only those that come back in a result can be committed.
"""

import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import traceback
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meterlake import __version__, storage
from meterlake.errors import BadInput, MeterlakeError, Unavailable

if TYPE_CHECKING:
    from pyspark import SparkConf, SparkContext

Unit = TypeVar("Unit")
Result = TypeVar("Result")

JAVA = 17  # the oldest that Spark 4 runs on
_UNITS_A_CORE = 4  # of a wave; which costs some 0.1 s by itself
_WAVES = 3  # drawn ahead, so that the slow units of one do not leave cores idle
_DRAWN_SECONDS = 1.0  # after which a wave goes, however few units there are yet
_JOBS = 32  # of Spark, at a time


@contextmanager
def spark_engine(master: str | None) -> Iterator["SparkEngine"]:
    """An engine on a cluster; its connection ends with the context, unless it was there before.

    Parameters
    ----------
    master : `local[2]`, `spark://host:7077`, `yarn`, `k8s://…`; None: as spark-submit or
        spark-defaults.conf say

    Raises
    ------
    BadInput
        PySpark or Java is missing, or too old.
    """
    try:
        with _without_warnings():
            from pyspark import SparkConf, SparkContext
    except ImportError as error:
        raise BadInput(
            f"--engine spark needs PySpark: pip install 'meterlake[spark]' (found: {error})"
        ) from error
    there: SparkContext | None = SparkContext._active_spark_context
    if there is not None:
        yield SparkEngine(lambda: there)
        return
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # else spark-submit has a Java at work already
        require_java()
    with ExitStack() as connection:

        def connected() -> SparkContext:
            _prepare(master)
            context = _connect(_configuration(SparkConf(), master))
            connection.callback(context.stop)
            return context

        yield SparkEngine(connected)


class SparkEngine:
    """Runs units as tasks of a Spark context, to which it connects when there is a first unit.

    Units are drawn in waves of some for each of the cluster's cores, a few waves ahead: a stream
    of units may be of any length, and a cluster that grows under load gets larger waves. Where
    units come slowly, those that are there go.
    """

    sends_units = True

    def __init__(self, connect: "Callable[[], SparkContext]") -> None:
        self._connect = connect

    @cached_property
    def _context(self) -> "SparkContext":
        return self._connect()

    def map(self, work: Callable[[Unit], Result], units: Iterable[Unit]) -> Iterator[Result]:
        """Yield results in the units' order; the first error cancels what has not ended.

        Raises
        ------
        BadInput
            The executors lack meterlake, or have another version of it.
        Unavailable
            Spark gave up: executors were lost again and again, or the cluster is gone.
        """
        remaining = iter(units)
        for first in remaining:
            yield from self._map(work, chain([first], remaining))

    def _map(self, work: Callable[[Unit], Result], remaining: Iterator[Unit]) -> Iterator[Result]:
        task = _Task(_pickled(work), storage.environment(), __version__, self._attempts())
        group = f"meterlake-{uuid.uuid4().hex}"
        what = getattr(work, "__qualname__", "meterlake").partition(".")[0]
        running: deque[tuple[int, Future[list[Any]]]] = deque()
        ahead = 0  # units that are drawn and not yielded
        with ThreadPoolExecutor(_JOBS, thread_name_prefix="wave") as pool:
            try:
                while wave := _drawn(remaining, self._slots()):
                    running.append((len(wave), pool.submit(self._run, task, wave, group, what)))
                    ahead += len(wave)
                    del wave
                    while running and (ahead >= _WAVES * self._slots() or running[0][1].done()):
                        count, future = running.popleft()
                        yield from future.result()
                        ahead -= count
                while running:
                    yield from running.popleft()[1].result()
            finally:
                if running:
                    for _, future in running:
                        future.cancel()
                    self._context.cancelJobGroup(group)

    def _slots(self) -> int:
        from py4j.protocol import Py4JError

        try:
            return _UNITS_A_CORE * max(1, self._context.defaultParallelism)
        except Py4JError as error:
            raise _given_up(error) from error

    def _attempts(self) -> int:
        """How often Spark tries a task before it gives up."""
        conf = self._context.getConf()
        local = re.fullmatch(r"local(?:\[[^,]*(?:,\s*(\d+))?\])?", self._context.master or "")
        return int(local[1] or 1) if local else int(conf.get("spark.task.maxFailures", "4") or 4)

    def _run(self, task: "_Task", wave: list[bytes], group: str, what: str) -> list[Any]:
        from py4j.protocol import Py4JError

        context = self._context
        try:
            context.setJobGroup(group, f"meterlake {what}", interruptOnCancel=True)
            answers = context.parallelize(wave, len(wave)).mapPartitions(task).collect()
        except (Py4JError, OSError) as error:
            raise _given_up(error) from error
        results = [pickle.loads(answer) for answer in answers]
        for result in results:
            if isinstance(result, _Raised):
                raise result.error
        return results


@dataclass(frozen=True)
class _Raised:
    """What a unit raised, on its way to the driver."""

    error: Exception


@dataclass(frozen=True)
class _Task:
    """What an executor runs on the units of one partition. Imports nothing before it is told to."""

    work: bytes
    environment: Mapping[str, str]
    version: str
    attempts: int

    def __call__(self, units: Iterable[bytes]) -> Iterator[bytes]:
        from pyspark import TaskContext

        context = TaskContext.get()
        cores = 1 if context is None else context.cpus()
        is_last = context is None or context.attemptNumber() + 1 >= self.attempts
        if self.version != __version__:
            yield pickle.dumps(_Raised(BadInput(_other_version(self.version))))
            return
        os.environ.setdefault("POLARS_MAX_THREADS", str(cores))  # counts until Polars is imported
        storage.adopt_environment(self.environment)
        work = _unpickled(self.work)
        for unit in units:
            try:
                result = work(pickle.loads(unit))
            except Exception as error:
                if not is_last and not isinstance(error, BadInput):
                    raise  # Spark tries again, perhaps on another machine
                if not isinstance(error, MeterlakeError):
                    error.add_note("".join(traceback.format_exception(error)))
                result = _Raised(error)
            yield pickle.dumps(result)


def _drawn(units: Iterator[Any], most: int) -> list[bytes]:
    """The next wave, pickled; none, where there are no more."""
    wave: list[bytes] = []
    began = time.monotonic()
    for unit in islice(units, most):
        wave.append(_pickled(unit))
        if time.monotonic() - began > _DRAWN_SECONDS:
            break
    return wave


def require_java() -> None:
    """Raise BadInput where there is no Java that Spark runs on."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home, "bin", "java")) if home else "java"
    advice = (
        f"--engine spark needs Java {JAVA} or later: apt-get install openjdk-17-jre-headless, or "
        "set JAVA_HOME to the folder of another"
    )
    if shutil.which(program) is None:
        raise BadInput(f"{advice}; found no '{program}'")
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None or int(found[1]) < JAVA:
        first, *_ = said.strip().split("\n")
        raise BadInput(f"{advice}; found {first or 'none'}")


def _prepare(master: str | None) -> None:
    """The environment of a driver's Java, where it is not set. Raises Unavailable: no master."""
    own = Path(os.environ.get("SPARK_CONF_DIR", ""), "log4j2.properties")
    if "SPARK_CONF_DIR" not in os.environ or not own.exists():
        quiet = str(Path(__file__).with_name("log4j2.properties"))
        os.environ.setdefault("LOG4J_CONFIGURATION_FILE", quiet)
    if not master or master.startswith(("local", "spark://")):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if master and master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if master and master.startswith("spark://"):
        _knock(master)


def _knock(master: str) -> None:
    """Spark itself would try for a minute, and then say that its context is stopped."""
    reason = ""
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
    raise Unavailable(
        f"Spark needs a master at {master}; nothing answers there: {reason}. Start it, or correct "
        "--spark-master"
    )


def _configuration(conf: "SparkConf", master: str | None) -> "SparkConf":
    conf.setIfMissing("spark.app.name", "meterlake")
    conf.setIfMissing("spark.ui.showConsoleProgress", "false")  # ours is shown
    if master:
        conf.setMaster(master)
    if (master or "").startswith("local"):
        conf.setIfMissing("spark.driver.bindAddress", "127.0.0.1")
        conf.setIfMissing("spark.driver.host", "127.0.0.1")
        conf.setIfMissing("spark.ui.enabled", "false")
    return conf


def _connect(conf: "SparkConf") -> "SparkContext":
    from py4j.protocol import Py4JError
    from pyspark import SparkContext
    from pyspark.errors import PySparkException

    try:
        with _without_warnings():
            return SparkContext(conf=conf)
    except (Py4JError, PySparkException, OSError) as error:
        raise Unavailable(
            f"Spark at {conf.get('spark.master', 'its default master')} cannot be reached: "
            f"{_cause(error)}. Check --spark-master, and that the cluster runs"
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """PySpark warns of versions of pandas, which has no part in this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _given_up(error: Exception) -> MeterlakeError:
    said = str(error)
    if re.search(r"No module named '(meterlake|polars|deltalake|obstore)", said):
        return BadInput(
            "Spark's executors need the meterlake package, in the Python that PYSPARK_PYTHON names "
            f"there; found none: {_cause(error)}. Install it there, or send an environment along"
        )
    if "PYTHON_VERSION_MISMATCH" in said or "Cannot run program" in said:
        return BadInput(
            f"Spark's executors need Python {sys.version_info[0]}.{sys.version_info[1]}, as the "
            f"driver has: {_cause(error)}. PYSPARK_PYTHON says where it is on them; correct it, or "
            "unset it"
        )
    if "stopped SparkContext" in said:
        return Unavailable(
            "Spark's cluster needs to stay within reach; the connection ended. What was committed "
            "stays; run the command again when it is there"
        )
    return Unavailable(
        f"Spark did not get the work done: {_cause(error)}. What was committed stays; run the "
        "command again. Spark's own log tells more"
    )


def _cause(error: Exception) -> str:
    """The line of a Java error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [
        line
        for line in lines
        if re.search(r"(Error|Exception): |Reason: |\[PYTHON_VERSION_MISMATCH\]", line)
        and not line.startswith(("at ", "An error occurred", "py4j.", "Caused by"))
    ]
    line = telling[-1] if telling else lines[0] if lines else type(error).__name__
    line = re.sub(r"^.*\(TID \d+\) \([^)]*\): ", "", line)  # which task it was
    return line[:300].strip(" .:")


def _other_version(driver: str) -> str:
    return (
        f"Spark's executors need meterlake {driver}, as the driver has; found {__version__}. "
        "Install the same there, or send the driver's environment along"
    )


def _pickled(thing: object) -> bytes:
    """A unit, or a function that may have been made inside another, with what it holds."""
    from pyspark import cloudpickle

    return bytes(cloudpickle.dumps(thing))  # type: ignore[no-untyped-call]


@lru_cache(maxsize=4)
def _unpickled(work: bytes) -> Callable[[Any], Any]:
    """The work of a job, once a worker process: it may keep things from unit to unit."""
    found: Callable[[Any], Any] = pickle.loads(work)
    return found
