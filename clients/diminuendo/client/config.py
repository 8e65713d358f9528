"""How a client connects, how long it waits and when it tries again."""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT_TARGET = "127.0.0.1:50300"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Attributes:
        initial_s: Longest pause before the second try.
        factor: How much the longest pause grows with each try.
        max_s: Where it stops growing.
    """

    initial_s: float = 0.1
    factor: float = 2.0
    max_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Everything that a client can be told apart from whom to call.

    Attributes:
        timeout_s: Deadline of a call, its retries included.
        connect_s: How long a server may take to answer at all, and how long calls are retried while it is
            away.
        stream_s: Deadline of one stream; it is then resumed where it was. Bounds how long a dead connection
            can go unnoticed.
        patience_s: How long a stream that was cut is tried again without any progress.
        page_size: Jobs fetched at once by `Client.list`.
        retry: The pauses between tries.
    """

    timeout_s: float = 10.0
    connect_s: float = 4.0
    stream_s: float = 120.0
    patience_s: float = 60.0
    page_size: int = 100
    retry: RetryPolicy = field(default_factory=RetryPolicy)
