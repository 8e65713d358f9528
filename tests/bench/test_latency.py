from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.bench import latency, runtimes
from tests.bench.latency_plans import PARAMS_RATIOS, Row, Surveyor, of_table
from tests.bench.runtimes import Exported, ExportError, Speed, in_onnx_runtime, in_pytorch
from torch import nn

from diminuendo.engine import Samples, Task
from diminuendo.engine.search.check import request_of
from diminuendo.engine.workfolder import WorkFolder


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    )


def test_the_wider_network_is_slower_in_pytorch_in_whichever_layout() -> None:
    inputs = torch.randn(1, 2, 16, 16)
    speed = in_pytorch(network(192), network(16), inputs, 1, rounds=5)
    assert speed.ratio > 2.0
    assert speed.original_ms > speed.compressed_ms > 0
    assert (speed.runtime, speed.batch, speed.threads) == ("pytorch", 1, 1)
    assert len(speed.how) == 2
    assert set(speed.how) <= {"contiguous", "channels_last"}
    assert in_pytorch(nn.Linear(8, 8), nn.Linear(8, 8), torch.randn(3, 8), 1, rounds=5).how == ("contiguous",) * 2


def test_an_exported_network_is_the_network_at_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = network(8).train(), torch.randn(6, 2, 8, 8)
    file = Exported(model, inputs, tmp_path / "network.onnx")
    assert model.training
    assert file.apart < 1e-5
    model.eval()
    for batch in (1, 6):
        found = torch.as_tensor(file.forward(inputs[:batch], 1)())
        assert torch.allclose(found, model(inputs[:batch]), atol=1e-5)
    speed = in_onnx_runtime(file, file, inputs[:1], 1, rounds=5)
    assert 0.5 < speed.ratio < 2.0
    monkeypatch.setattr(runtimes, "TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="outputs differ by"):
        file.check(model, inputs)


def test_only_a_network_that_was_made_for_its_latency_can_miss_the_aim() -> None:
    def figures(objective: str, ratio: float) -> dict[str, object]:
        row = Speed("pytorch", 1, 1, 10.0, 5.0, ratio, 0.0)
        return {"certificate": {"objective": objective}, "speeds": [vars_of(row)]}

    def vars_of(row: Speed) -> dict[str, object]:
        return {"runtime": row.runtime, "batch": row.batch, "threads": row.threads, "ratio": row.ratio}

    assert latency.met(figures("latency", 1.58))
    assert not latency.met(figures("latency", 1.57))
    assert latency.met(figures("params", 1.0))
    assert latency.met({"plans": []})


def test_a_plan_is_told_in_a_line() -> None:
    row = Row("latency", 2.0, 2.0, 1.6, 0.25, 5.0, 3.0, 4.0, 0.5, {"svd": 2, "dense": 1}, {})
    assert str(row) == (
        "latency  2.00x: predicted 2.00x, measured 1.60x (+25.0%); params 3.00x, MACs 4.00x, damage 0.500; "
        "1 dense, 2 svd"
    )


def test_the_table_is_put_to_the_test_on_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4))
    inputs = [torch.randn(n, 16) for n in (200, 40)]
    train, evaluation = (Samples(x, model(x).argmax(dim=1).detach()) for x in inputs)
    task = Task(model, train, evaluation, source="task:wide")
    request = request_of(task.source, 1.0, formats=["svd"], objective="latency")
    folder = WorkFolder(tmp_path / "work")
    surveyor = Surveyor.of(task, request, folder)
    again = Surveyor.of(task, request, folder)  # from what the folder keeps
    assert again.surveys == surveyor.surveys
    figures = of_table(surveyor, torch.randn(1, 16), [1.3], rounds=3)
    fastest, *small = figures["plans"]
    assert (fastest["objective"], fastest["wanted_ratio"]) == ("latency", 1.3)
    assert fastest["predicted_ratio"] >= 1.3
    assert fastest["plan"]["2"].startswith("svd(")
    assert [row["wanted_ratio"] for row in small] == list(PARAMS_RATIOS)
    assert [row["params_ratio"] >= row["wanted_ratio"] for row in small] == [True, True]
    assert figures["largest_error"] == max(abs(row["error"]) for row in figures["plans"])
    assert figures["original_ms"] > 0
    json.dumps(figures, allow_nan=False)
