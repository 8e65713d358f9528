"""How evaluators tell their moments: a line over TCP to the test, and a line back when they may go on."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading

from tests.faults.moments import Moment, Moments, Where

ADDRESS = "FAULTS_GATE"
"""Environment variable with HOST:PORT of the test. Read here only, in the evaluators that run a worker of the tests."""


class Gate:
    """Listens for evaluators, in threads."""

    def __init__(self, moments: Moments) -> None:
        """Listen on a port of 127.0.0.1."""

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                told = json.loads(self.rfile.readline() or b"null")
                if told is None:
                    return
                verdict = moments.come_to(Moment(**told, stage=moments.stage))
                try:
                    self.wfile.write(verdict.encode() + b"\n")
                except OSError:
                    return  # killed while it was held: that was the point

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="gate", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def tell(where: Where, name: str, key: str) -> None:
    """On an evaluator: come to a moment; returns when it may go on."""
    host, _, port = os.environ[ADDRESS].partition(":")
    told = {"where": where, "name": name, "key": key, "pid": os.getpid()}
    with socket.create_connection((host, int(port)), timeout=90) as connection:
        connection.sendall(json.dumps(told).encode() + b"\n")
        connection.recv(16)
