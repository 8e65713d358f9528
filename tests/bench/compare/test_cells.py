from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench.compare.cells import Cells


def test_a_finished_cell_is_not_computed_again(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, object]:
        calls.append(1)
        return {"ratio": 2.5, "trials": ((1.0, 2.0),)}

    cells = Cells(tmp_path / "new", {"epochs": 3, "formats": ("svd", "cp")})
    assert cells.get("tpe-0") is None
    first = cells.computed("tpe-0", compute)
    again = Cells(tmp_path / "new", {"epochs": 3, "formats": ("svd", "cp")}).computed("tpe-0", compute)
    assert first == again == {"ratio": 2.5, "trials": [[1.0, 2.0]]}
    assert len(calls) == 1


def test_a_cell_of_other_settings_is_computed_anew(tmp_path: Path) -> None:
    Cells(tmp_path, {"epochs": 3}).computed("tpe-0", lambda: {"ratio": 2.5})
    cells = Cells(tmp_path, {"epochs": 4})
    assert cells.get("tpe-0") is None
    assert cells.computed("tpe-0", lambda: {"ratio": 3.0}) == {"ratio": 3.0}
    assert Cells(tmp_path, {"epochs": 4}).get("tpe-0") == {"ratio": 3.0}


def test_a_cell_that_fails_is_not_kept(tmp_path: Path) -> None:
    def fail() -> dict[str, object]:
        raise RuntimeError("stopped")

    cells = Cells(tmp_path, {})
    with pytest.raises(RuntimeError, match="stopped"):
        cells.computed("tpe-0", fail)
    assert cells.get("tpe-0") is None
