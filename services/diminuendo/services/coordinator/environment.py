"""What a Ray of one's own reads from the environment. To be set before ray is first imported; imports no ray."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import MutableMapping

_RAY_LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # "No cluster of several nodes": the only way to have every one of Ray's servers listen on 127.0.0.1. Without
    # it ray.init replaces 127.0.0.1 by the machine's address, and the servers, which run code, listen everywhere.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of the machine reach 127.0.0.1 as well. Without a token of ours, Ray writes one into ~/.ray.
    "RAY_AUTH_MODE": "token",
}
_FOREIGN = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_AUTH_TOKEN_PATH")
"""Settings of somebody else's cluster."""


def isolate(environment: MutableMapping[str, str] = os.environ) -> None:
    """Prepare this process for a local Ray: on 127.0.0.1 only, behind a random token, nothing in the home folder.

    Raises:
        RuntimeError: ray was imported already, and has read the environment.
    """
    if environment is os.environ and "ray" in sys.modules and not is_isolated(environment):
        raise RuntimeError("ray was imported before its environment was set; call isolate() first")
    for key in _FOREIGN:
        environment.pop(key, None)
    environment.update(_RAY_LOCAL)
    environment.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # What cannot be installed is said at once: whoever cannot reach the index now submits again.
    environment.setdefault("RUNTIME_ENV_RETRY_TIMES", "1")
    # Ray gives its first server 30 s to start, which on a busy laptop has been too little.
    environment.setdefault("RAY_gcs_server_port_wait_time_s", "120")


def is_isolated(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether `isolate` was called."""
    return all(environment.get(key) == value for key, value in _RAY_LOCAL.items())
