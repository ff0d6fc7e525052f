"""A PostgreSQL cluster of one's own for the length of a test: on loopback, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    absent = [name for name in ("initdb", "pg_ctl", "postgres") if shutil.which(name) is None]
    return f"{', '.join(absent)} not found: PostgreSQL's server is not installed" if absent else None


class Cluster:
    """A server; `with Cluster() as cluster: cluster.url`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="detectune-pg-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://tuner@127.0.0.1:{self.port}/postgres"
        # The server refuses to run as root.
        self.as_user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}

    def __enter__(self) -> Cluster:
        if self.as_user:
            shutil.chown(self.folder, **self.as_user)
        self._run("initdb", "-U", "tuner", "--auth=trust", "--no-sync", "-E", "UTF8")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "server.log"), "-o", options, "start")

    def stop(self) -> None:
        """At once, as a crash: connections break and the server recovers when it starts."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, *command: str) -> None:
        environment = os.environ | {"PGDATA": str(self.folder / "data"), "HOME": str(self.folder)}
        done = subprocess.run(
            command, env=environment, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, check=False, **self.as_user,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
