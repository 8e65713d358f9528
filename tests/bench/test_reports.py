from __future__ import annotations

import json
from pathlib import Path

from tests.bench.reports import main


def test_it_measures_both_databases(tmp_path: Path) -> None:
    main(["--coordinators", "2", "--seconds", "0.6", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "reports.json").read_text())
    for database in ("sqlite", "postgresql"):
        assert found[database]["reports"] >= 2
        assert 0 < found[database]["writer_share"] < 1
        assert found[database]["create_ms_beside"] > 0
