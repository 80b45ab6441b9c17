"""Store the studies of a data set in a PostgreSQL database.

Any number of searches, on any number of machines, share them: each takes places of the plan that no
other has, and takes over those of a machine that gives no sign of life any more.
"""

import contextlib
import re
import secrets
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from src.core.errors import UserError
from src.core.files import replacing
from src.results.folder import ResultsFolder
from src.results.lock import FolderLock
from src.results.shipped import set_aside
from src.search.store import Store

_GRACE = 5
"""A trial is given up when its machine has been silent for this many heartbeats."""

_LOCK_KEY = 0x4843525F4C4E4721
"""Names our lock among all of a PostgreSQL database: "HCR_LNG!"."""

_LOCK_PATIENCE = 60
"""Seconds that a search waits for the others to have done with the studies, at most."""

_ANSWER = 10
"""Seconds that a search waits for a server to answer, give or take."""


class Database(Store):
    """A PostgreSQL database, for any number of searches at once.

    Args:
        url: as SQLAlchemy writes it; its password is told to the server alone.
        folder: where this search publishes.
        heartbeat: seconds between two signs of life of a trial.
    """

    shared = True

    def __init__(self, url: str, folder: ResultsFolder, heartbeat: int) -> None:
        self._url = _parse(url)
        self._folder = folder
        self._heartbeat = heartbeat
        self.heartbeat_interval = float(heartbeat)
        self._engine: sqlalchemy.Engine
        self._opened: RDBStorage | None = None
        self._locked: sqlalchemy.Connection
        """The connection that holds the lock, within `exclusive`."""
        ours = sqlalchemy.MetaData()
        self._searches = sqlalchemy.Table(
            "hcr_lightning_searches",
            ours,
            sqlalchemy.Column("dataset", sqlalchemy.Text, primary_key=True),
            sqlalchemy.Column("id", sqlalchemy.Text, nullable=False),
            sqlalchemy.Column("heartbeat", sqlalchemy.Integer, nullable=False),
        )
        self._models = sqlalchemy.Table(
            "hcr_lightning_models",
            ours,
            sqlalchemy.Column("dataset", sqlalchemy.Text, primary_key=True),
            sqlalchemy.Column("name", sqlalchemy.Text, primary_key=True),
            sqlalchemy.Column("checkpoint", sqlalchemy.LargeBinary, nullable=False),
        )

    def __enter__(self) -> "Database":
        connection = {
            "connect_timeout": _ANSWER,
            "keepalives_idle": _ANSWER,
            "keepalives_interval": _ANSWER // 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 3000 * _ANSWER,
        }
        settings = {"pool_pre_ping": True, "hide_parameters": True, "connect_args": connection}
        self._engine = sqlalchemy.create_engine(self._url, pool_size=1, **settings)
        try:
            with self.reachable(), self.exclusive(), warnings.catch_warnings():
                self._searches.metadata.create_all(self._locked)
                self._take_folder()
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.storage = self._opened = RDBStorage(
                    self._url.render_as_string(hide_password=False),
                    engine_kwargs=settings,
                    skip_compatibility_check=True,  # or its connections would stay open
                    heartbeat_interval=self._heartbeat,
                    grace_period=_GRACE * self._heartbeat,
                )
                sqlalchemy.event.listen(self._opened.engine, "connect", _speak_utc)
                self._opened.engine.dispose()  # connections from before that
                self._opened._version_manager.check_table_schema_compatibility()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, RuntimeError):  # so Optuna refuses the tables of another version
                raise UserError(f"`storage` (={self._shown}): {error}") from error
            raise
        return self

    def _take_folder(self) -> None:
        """Make sure that the results folder is that of this very search, or nobody's yet."""
        wanted = {"dataset": self._folder.path.name}
        row = self._locked.execute(sqlalchemy.select(self._searches).filter_by(**wanted)).first()
        if row is None:
            identity, heartbeat = secrets.token_hex(16), self._heartbeat
            values = {**wanted, "id": identity, "heartbeat": heartbeat}
            self._locked.execute(self._searches.insert().values(**values))
        else:
            identity, heartbeat = row.id, row.heartbeat
        if heartbeat != self._heartbeat:
            raise UserError(
                f"`heartbeat` (={self._heartbeat}) differs from that of the search in this "
                f"database (={heartbeat}); its machines must agree on when one is given up"
            )
        another = "go on with it as it was begun, or choose another folder with `--results_dir`"
        with FolderLock(self._folder.lock, timeout=_ANSWER):
            set_aside(self._folder)
            if self._folder.journal.exists():
                raise UserError(
                    f"{self._folder.path} holds a search with an embedded study; {another}"
                )
            if not self._folder.database.exists():
                with replacing(self._folder.database) as temporary:
                    temporary.write_text(identity)
            elif self._folder.database.read_text(errors="replace") != identity:
                raise UserError(
                    f"{self._folder.path} holds a search of another database; {another}"
                )

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()
        if self._opened is not None:
            self._opened.engine.dispose()

    @contextlib.contextmanager
    def reachable(self) -> Iterator[None]:
        """Say in one line what the server, or the way to it, fails with."""
        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            cause = getattr(cause, "orig", None) or cause
            message = " ".join(str(cause).split())[:300]
            raise UserError(
                f"`storage` (={self._shown}): {self._without_secrets(message)}; the same command "
                "goes on when the database answers"
            ) from error

    @property
    def _shown(self) -> str:
        return self._url.render_as_string(hide_password=True).split("?")[0]

    def _without_secrets(self, message: str) -> str:
        query = {key: value for key, value in self._url.query.items() if "password" in key}
        for secret in (self._url.password, *query.values()):
            if isinstance(secret, str) and secret:
                message = message.replace(secret, "***")
        return message

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold PostgreSQL's lock for it, which does not outlive the connection."""
        with self._engine.begin() as self._locked:
            for setting in ("lock_timeout", "idle_in_transaction_session_timeout"):
                # The second one frees the lock when its holder's machine has vanished.
                self._locked.exec_driver_sql(f"SET LOCAL {setting} = '{_LOCK_PATIENCE}s'")
            self._locked.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
            yield

    def release_abandoned(self, study: optuna.Study, ours: Collection[int]) -> None:
        """Fail the trials whose process has been silent, so that their places are free again.

        Also `ours`, if they were: others may have looked meanwhile.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)

    def _record_heartbeat(self, trial_id: int) -> None:
        assert self._opened is not None
        self._opened.record_heartbeat(trial_id)

    def keep_model(self, name: str, content: bytes) -> None:
        """Write it to the database, for all machines."""
        row = {"dataset": self._folder.path.name, "name": name}
        self._locked.exec_driver_sql("SELECT 1")  # fails if we slept, and lost the lock meanwhile
        with self._engine.begin() as connection:  # it must be there before the lock is released
            connection.execute(self._models.delete().filter_by(**row))
            connection.execute(self._models.insert().values(**row, checkpoint=content))

    def fetch_models(self) -> None:
        """Write those that the results folder does not have as they are in the database."""
        columns = self._models.c
        query = sqlalchemy.select(columns.name, columns.checkpoint)
        with self._engine.connect() as connection:
            rows = connection.execute(query.filter_by(dataset=self._folder.path.name)).all()
        for name, content in rows:
            path = self._folder.checkpoint(name)
            if not path.exists() or path.read_bytes() != content:
                with replacing(path) as temporary:
                    temporary.write_bytes(content)


def _speak_utc(connection: Any, _: object) -> None:
    """Make machines agree on what the server calls now, which heartbeats are recorded as."""
    connection.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _parse(url: str) -> sqlalchemy.URL:
    """Check a URL, and name the driver that is used.

    Raises:
        UserError: it is no PostgreSQL URL, or its driver is not installed.
    """
    wanted = "must be a PostgreSQL URL such as postgresql+psycopg://user@host/database"
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # not shown: it has the password
        raise UserError(f"`storage` {wanted}") from error
    if not re.fullmatch(r"postgres(ql)?(\+psycopg)?", parsed.drivername):
        raise UserError(f"`storage` (={parsed.drivername}://…) {wanted}")
    try:
        import psycopg  # noqa: F401  # an extra
    except ImportError as error:
        raise UserError(
            "`storage` needs PostgreSQL's driver: pip install -e '.[postgresql]'"
        ) from error
    return parsed.set(drivername="postgresql+psycopg")
