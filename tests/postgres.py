"""A PostgreSQL server that the tests start and stop themselves."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

PASSWORD = "s3cret-" + secrets.token_hex(8)


def find_program(name: str) -> str | None:
    """Return PostgreSQL's server program; Debian keeps it off the path."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


def _user() -> str | None:
    """Return whom to run it as, since it refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Server:
    """A server with a database for every name that is asked for."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://tuner:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        program = find_program("postgres")
        assert program is not None
        self._process = subprocess.Popen(
            [
                *(program, "-D", str(self.folder / "data"), "-p", str(self.port)),
                *("-h", "127.0.0.1", "-k", str(self.folder), "-c", "fsync=off"),
            ],
            user=_user(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self._address("postgres")).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.1)

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)  # at once, whoever is connected
        self._process.wait(30)

    def create(self, database: str) -> str:
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        return self.url(database)

    def query(self, database: str, query: LiteralString) -> list[tuple[object, ...]]:
        with psycopg.connect(self._address(database)) as connection:
            return connection.execute(query).fetchall()

    def _address(self, database: str) -> str:
        return self.url(database).replace("+psycopg", "")


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """Start a server that lets nobody in without a password."""
    initdb = find_program("initdb")
    assert initdb is not None
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        folder.chmod(0o755)
        if (user := _user()) is not None:
            shutil.chown(folder, user)
        subprocess.run(
            [
                *(initdb, "-D", str(folder / "data"), "-U", "tuner", "--auth=scram-sha-256"),
                *(f"--pwfile={folder}/password", "--no-sync"),
            ],
            user=user,
            check=True,
            capture_output=True,
        )
        server = Server(folder, port)
        server.start()
        try:
            yield server
        finally:
            server.stop()
