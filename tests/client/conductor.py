"""A real conductor in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from diminuendo.client.child import Child
from diminuendo.engine.store import DirectoryStore


class Conductor:
    """A conductor that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        self.folder = folder
        self.port = "0"
        self.start()

    def start(self) -> None:
        """Start it, again at its port."""
        command = [sys.executable, "-m", "diminuendo.client.cli.main", "conductor"]
        command += ["--data-dir", str(self.folder / "data"), "--port", self.port, "--http-port", "0"]
        self.child = Child(command, log=self.folder / "conductor.log")
        line = self.child.read_line("ready ", timeout_s=60)
        self.target = line.split()[1].removeprefix("grpc=")
        self.port = self.target.rpartition(":")[2]

    def kill(self) -> None:
        """End it with no time to say goodbye."""
        self.child.stop(timeout_s=0)

    def stop(self) -> None:
        """End it."""
        self.child.stop(timeout_s=15)

    def store(self) -> DirectoryStore:
        """Its artifacts."""
        return DirectoryStore(self.folder / "data" / "artifacts")
