"""Benchmark: whether the service holds under load, each figure beside what is asked of it.

    python -m tests.bench.service [--only calls|watches|stored|works ...] [--quick]

- ``calls``: CreateJob and GetJob of a real conductor, on SQLite and on PostgreSQL, from 16 clients.
- ``watches``: an event to 1,000 open watches; 1,000 abandoned ones.
- ``stored``: pages of jobs, restart and resumption with 10,000 jobs and 1,000,000 evaluations in the database.
- ``works``: works a second through the coordinator and Ray, and its overhead against bare calls of Ray actors.

Each is printed as a table and recorded in a file of its own. Load and server share the machine's processors; what the
clients take of them is recorded beside. PostgreSQL runs as the tests have it, without fsync: its figures tell what the
conductor can do, not what a disk can.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diminuendo.services.coordinator.environment import isolate

isolate()  # before ray is imported

from tests.bench.results import RESULTS, command_line, record  # noqa: E402
from tests.bench.service_calls import CREATE, GET, both  # noqa: E402
from tests.bench.service_stored import stored  # noqa: E402
from tests.bench.service_watches import abandoned, watched  # noqa: E402
from tests.bench.service_works import worked  # noqa: E402
from tests.postgres import Postgres  # noqa: E402

from diminuendo.services.common import logs  # noqa: E402

SEED = 0


@dataclass(frozen=True)
class Line:
    """A figure beside what is asked of it.

    Attributes:
        least: What it is to be at least; None: it has no such bound.
        most: What it is to be at most.
    """

    what: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def asked(self) -> str:
        """The bound, for people."""
        if self.least is not None:
            return f"at least {self.least:,g}"
        return "" if self.most is None else f"at most {self.most:,g}"

    @property
    def held(self) -> bool:
        """Whether the figure is inside its bound."""
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)


@dataclass(frozen=True)
class Part:
    """What one part found.

    Attributes:
        lines: What is shown.
        figures: All that is recorded.
    """

    lines: tuple[Line, ...]
    figures: Mapping[str, Any]


def calls(folder: Path, *, quick: bool = False) -> Part:
    """CreateJob and GetJob on both databases."""
    seconds, warm_s = (0.5, 0.2) if quick else (10.0, 2.0)
    found = {"sqlite": both(folder / "sqlite", seconds=seconds, warm_s=warm_s)}
    server = Postgres()
    try:
        url = server.empty_database()
        found["postgresql"] = both(folder / "postgresql", database=url, seconds=seconds, warm_s=warm_s)
    finally:
        server.close()
    own = found["sqlite"]
    lines = [
        Line("CreateJob, SQLite", own[CREATE].per_s, "/s", least=300),
        Line("CreateJob, SQLite, p99", own[CREATE].p99_ms, "ms", most=100),
        Line("CreateJob, SQLite, p50", own[CREATE].p50_ms, "ms"),
        Line("GetJob, SQLite", own[GET].per_s, "/s", least=1500),
        Line("GetJob, SQLite, p99", own[GET].p99_ms, "ms"),
    ]
    for method in (CREATE, GET):
        other = found["postgresql"][method]
        lines.append(Line(f"{method}, PostgreSQL", other.per_s, "/s"))
        lines.append(Line(f"{method}, PostgreSQL, p99", other.p99_ms, "ms"))
    tables = {kind: {name: asdict(one) for name, one in table.items()} for kind, table in found.items()}
    return Part(tuple(lines), tables)


def watches(folder: Path, *, quick: bool = False) -> Part:
    """Open watches and abandoned ones."""
    count, together = (20, 10) if quick else (1000, 250)
    opened = watched(folder / "open", watches=count, rounds=2 if quick else 10)
    left = abandoned(folder / "abandoned", watches=count, together=together)
    lines = (
        Line(f"an event to {count} watches, the slowest", opened.slowest_s, "s", most=1),
        Line("an event to all of them, median", opened.median_s, "s"),
        Line("memory of the conductor meanwhile", opened.resident_mib, "MiB", most=500),
        Line(f"cancelled of {count} abandoned watches", left.cancelled, "", least=count),
        Line("memory that they leave behind", left.grown_mib, "MiB", most=10),
    )
    return Part(lines, {"open": asdict(opened), "abandoned": asdict(left) | {"grown_mib": left.grown_mib}})


def much(folder: Path, *, quick: bool = False) -> Part:
    """A full database."""
    sizes = {"count": 200, "known": 500, "trials": 100, "starts": 1} if quick else {}
    found = stored(folder, seed=SEED, **sizes)
    slowest = max(found.pages, key=lambda pages: pages.p99_ms)
    lines = (
        Line("a page of ListJobs, p99 of all listings", found.page_p99_ms, "ms", most=50),
        Line(f"a page of the slowest listing ({slowest.listing}), p99", slowest.p99_ms, "ms", most=50),
        Line("the conductor's start", found.start_s, "s", most=5),
        Line("a long search, from lease to work", found.resume_s, "s", most=5),
        Line("a long search, from lease to its next proposal", found.proposal_s, "s", most=5),
        Line("as many outcomes by their keys", found.recall_s, "s", most=5),
    )
    return Part(lines, asdict(found))


def works(folder: Path, *, quick: bool = False) -> Part:
    """Works through Ray."""
    sizes = {"no_ops": 20, "short": 10, "long": 1, "rounds": 1} if quick else {}
    found = worked(**sizes)
    short, long = found.compared
    lines = (
        Line("works that do nothing", found.no_ops_per_s, "/s", least=200),
        Line("bare calls that do nothing", found.no_op_calls_per_s, "/s"),
        Line("overhead at 10 ms a work", 100 * short.overhead, "%", most=25),
        Line("overhead at 1 s a work", 100 * long.overhead, "%", most=2),
        Line("at 10 ms, against calls that are queued ahead", 100 * short.overhead_queued, "%"),
        Line("at 1 s, against calls that are queued ahead", 100 * long.overhead_queued, "%"),
    )
    return Part(lines, asdict(found))


PARTS: Mapping[str, Callable[..., Part]] = {"calls": calls, "watches": watches, "stored": much, "works": works}


def table(lines: Sequence[Line]) -> str:
    """The lines for people, those outside their bounds marked."""
    width = max(len(line.what) for line in lines)
    rows = (
        (f"  {line.what:<{width}}  {line.value:>10,.4g} {line.unit:<4} {line.asked}", "" if line.held else "  MISSED")
        for line in lines
    )
    return "\n".join((figure + mark).rstrip() for figure, mark in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="Tiny amounts: whether it works, not how fast it is.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    logs.configure(service="bench", level="warning")
    for name in options.only:
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix="diminuendo-bench-") as folder:
            part = PARTS[name](Path(folder), quick=options.quick)
        command = command_line("tests.bench.service", ["--only", name, *(["--quick"] if options.quick else [])])
        path = record(
            f"service-{name}",
            {"figures": part.figures, "asked": [asdict(line) | {"held": line.held} for line in part.lines]},
            command=command,
            seed=SEED,
            folder=options.out,
            load_before=round(load, 2),
        )
        print(f"{name} ({path})\n{table(part.lines)}", flush=True)


if __name__ == "__main__":
    main()
