"""Where a ledger's study lies: SQLite in the search's folder, or a PostgreSQL server. And who may write it: one driver.

``ledger.db`` is the SQLite file. Where the study lies on a server, ``ledger.json`` says its URL and its name there; the
password is never kept: libpq finds it in PGPASSWORD, PGPASSFILE or ~/.pgpass.
"""

from __future__ import annotations

import contextlib
import errno
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import filelock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from tunesearch.errors import DiskFull, Halted, InputError, LedgerBusy, Problem
from tunesearch.segmentation.files import write_text

P = ParamSpec("P")
T = TypeVar("T")

DRIVER = "postgresql+psycopg"
PATIENCE = 120.0
"""Seconds that a write waits for a database that is locked, restarts or cannot be reached."""
TROUBLE = (SQLAlchemyError, StorageInternalError)
"""What a database raises through Optuna when it cannot be read or written."""


def check_url(url: str) -> str:
    """The URL of a PostgreSQL database for ledgers, with its driver named.

    Raises:
        InputError: it is none, it carries a password, or the server cannot be reached.
    """
    where = "--ledger"
    rule = "must be postgresql://USER@HOST[:PORT]/DATABASE"
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise InputError(Problem(where, rule)) from None  # what cannot be read may hold a password anywhere
    if parsed.password is not None or any("password" in key for key in parsed.query):
        hint = "give it in PGPASSWORD or ~/.pgpass"
        raise InputError(Problem(where, "must not hold the password, which would be shown and kept", hint=hint))
    shown = parsed.set(query={}).render_as_string()
    if backend != "postgresql" or not parsed.database:
        hint = "without --ledger it is SQLite in the storage folder"
        raise InputError(Problem(where, rule, value=shown, hint=hint))
    told = parsed.set(drivername=DRIVER).render_as_string()
    try:
        storage = _connect(told)
    except (*TROUBLE, NoSuchModuleError, ImportError) as error:
        raise InputError(Problem(where, f"the database must answer: {reason(error)}", value=shown)) from error
    storage.remove_session()
    storage.engine.dispose()
    return told


def _connect(url: str) -> RDBStorage:
    # pre_ping: a connection that a restarted server has closed is noticed before it is used. The others: a host that
    # vanished is noticed in seconds instead of a quarter of an hour, by us, and by the server, which frees our lock.
    alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    theirs = " ".join(f"-c tcp_{name}={value}" for name, value in alive.items())
    arguments = {
        "connect_timeout": 10,
        "application_name": "tunesearch",
        "tcp_user_timeout": 30_000,
        "options": theirs,
        **alive,
    }
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": arguments})


def reason(error: BaseException) -> str:
    """What a database said, in one short line."""
    innermost = getattr(error, "orig", None) or error.__cause__ or error
    innermost = getattr(innermost, "orig", None) or innermost
    lines = [line.strip() for line in str(innermost).splitlines() if line.strip()]
    return (lines[0] if lines else type(innermost).__name__)[:200]


class Database:
    """The database of one search.

    Args:
        folder: of the search; it says which database.
        new: whether its tables are still to be made.

    Attributes:
        storage: Optuna's.
        study: the study's name there.
    """

    def __init__(self, folder: Path, *, new: bool = False) -> None:
        self.folder = folder
        self._file_lock = filelock.FileLock(folder / "driver.lock")
        self._guard: Connection | None = None
        self._unguarded_since: float | None = None
        self.on_wait: Callable[[str], None] = lambda text: None
        """Told that a write waits for the database."""
        kept = folder / "ledger.json"
        if kept.is_file():
            content = json.loads(kept.read_text(encoding="utf-8"))
            self.url: str | None = content["url"]
            self.study: str = content["study"]
            self.storage = _connect(content["url"])
        else:
            self.url, self.study = None, folder.name
            # The timeout is SQLite's: a writer waits for another instead of raising "database is locked".
            arguments = {"connect_args": {"timeout": 60}}
            url = f"sqlite:///{folder.resolve()}/ledger.db"
            # A damaged file must not be made into an empty ledger by opening it.
            self.storage = RDBStorage(url, engine_kwargs=arguments, skip_table_creation=not new)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a search's folder has one."""
        return (folder / "ledger.db").is_file() or (folder / "ledger.json").is_file()

    @staticmethod
    def found(folder: Path, url: str, study: str) -> None:
        """Say in a new search's folder that its study lies on a server."""
        write_text(folder / "ledger.json", json.dumps({"url": url, "study": study}))

    def close(self) -> None:
        """Let go of every connection."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    @property
    def where(self) -> str:
        """For messages."""
        return self.url or str(self.folder / "ledger.db")

    # ------------------------------------------------------------------------------------------------- the one driver

    def take(self) -> None:
        """Become the only driver, of all machines that share the folder or the server.

        Raises:
            LedgerBusy: another process is.
        """
        busy = LedgerBusy(Problem(f"search {self.folder.name}", "another process is driving it"))
        try:
            self._file_lock.acquire(timeout=2)  # a glance of ``driven`` holds it for a moment
        except filelock.Timeout:
            raise busy from None
        if self.url is not None:
            try:
                for _ in range(5):
                    self._guard = self._lock_on_server()
                    if self._guard is not None:
                        break
                    time.sleep(1.0)
            except BaseException:
                self._file_lock.release()
                raise
            if self._guard is None:
                self._file_lock.release()
                raise busy

    def still_mine(self) -> bool:
        """Whether this process is still the driver; takes the server's lock again after the server was away."""
        if self.url is None:
            return True
        try:
            if self._guard is not None:
                self._guard.execute(text("SELECT 1"))
                return True
        except SQLAlchemyError:
            with contextlib.suppress(SQLAlchemyError):
                self._guard.invalidate()  # type: ignore[union-attr]
            self._guard = None
        self._unguarded_since = self._unguarded_since or time.monotonic()
        try:
            self._guard = self._lock_on_server()
        except SQLAlchemyError:
            return True  # not there at the moment: whoever wants to drive must reach it first as well
        if self._guard is not None:
            self._unguarded_since = None
            return True
        # The server may hold our own lost connection for alive; it notices within half a minute.
        return time.monotonic() - self._unguarded_since < PATIENCE

    def release(self) -> None:
        """Let another process drive."""
        if self._guard is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._guard.close()
            self._guard = None
        self._file_lock.release()

    @property
    def driven(self) -> bool:
        """Whether some process drives the search now."""
        if self._file_lock.is_locked:
            return True
        try:
            with filelock.FileLock(self.folder / "driver.lock", timeout=0):
                pass
        except filelock.Timeout:
            return True
        except OSError:  # a folder that cannot be written has no driver that can be seen from here
            return False
        if self.url is None:
            return False
        held = text(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
            " AND ((classid::bigint << 32) | objid::bigint) = hashtextextended(:name, 0))"
        )
        with self.storage.engine.connect() as connection:  # to look, not to lock: a driver may just be coming
            return bool(connection.execute(held, {"name": self._lock_name}).scalar())

    @property
    def _lock_name(self) -> str:
        return f"tunesearch driver {self.study}"

    def _lock_on_server(self) -> Connection | None:
        """A connection that holds the search's advisory lock, which ends with it; None: somebody else holds it."""
        connection = self.storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        name = {"name": self._lock_name}
        if connection.execute(text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"), name).scalar():
            connection.detach()  # back in the pool it would keep the lock
            return connection
        connection.close()
        return None

    # ------------------------------------------------------------------------------------------------------- writing

    def write(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(...)``, again and again while the database is away, for ``PATIENCE`` seconds. It must be idempotent.

        Raises:
            DiskFull: there is no room; waiting would not help.
            Halted: it stayed away.
        """
        until = time.monotonic() + PATIENCE
        told = False
        while True:
            try:
                return work(*args, **kwargs)
            except TROUBLE as error:
                if _is_full(error):
                    raise DiskFull(f"{self.where}: the disk is full, the ledger cannot be written") from error
                if time.monotonic() > until:
                    raise Halted(f"{self.where}: the ledger cannot be written: {reason(error)}") from error
                if not told:
                    self.on_wait(f"the ledger cannot be written ({reason(error)}); waiting for it")
                    told = True
                time.sleep(1.0)


def _is_full(error: BaseException) -> bool:
    return any(
        getattr(link, "errno", None) == errno.ENOSPC
        or "disk is full" in str(link)  # SQLite's
        or "No space left on device" in str(link)  # PostgreSQL's
        for link in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or getattr(error, "orig", None)
