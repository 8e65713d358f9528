"""Times of forms, on a made-up device whose times are known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.engine.latency.device import CALL_US, OTHER_US, Device, takes_us
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn

from diminuendo.engine.formats import FORMATS
from diminuendo.engine.latency import LatencyCache, Timetable
from diminuendo.engine.latency.table import POINTS
from diminuendo.engine.latency.whole import ROUNDS
from diminuendo.engine.plan import Choice
from diminuendo.engine.search.work import LayerTime, Option
from diminuendo.engine.survey import factors, moments
from diminuendo.engine.survey.discover import discover

WARM_UPS = 2


class Bench:
    """A network with factors of its layers, and a table of it on a device."""

    def __init__(self, model: nn.Module, inputs: Tensor, formats: Sequence[str] = ("svd", "tucker2")) -> None:
        self.model, self.device = model.eval(), Device()
        self.specs = {spec.name: spec for spec in discover(model, inputs).layers}
        seen = moments.collect(model, tuple(self.specs.values()), inputs)
        self.factors: dict[str, dict[str, dict[str, Tensor]]] = {
            name: factors.factor(model, spec, seen[name], formats) for name, spec in self.specs.items()
        }
        self.example = inputs[:1]

    def table(self, cache: Path | None = None) -> Timetable:
        return Timetable(self.model, list(self.specs), self.example, clock=self.device, cache=LatencyCache(cache))

    def options(self, layer: str) -> list[Option]:
        spec = self.specs[layer]
        return [
            Option(Choice(name, ranks), FORMATS[name].cost(spec, ranks), 0.0, 0.0)
            for name, own in self.factors[layer].items()
            for ranks in FORMATS[name].ladder(spec, own)
        ]

    def timed(self, layer: str, table: Timetable | None = None) -> tuple[dict[Choice, float], LayerTime]:
        """Microseconds of every form."""
        with self.device:
            options, time = (table or self.table()).timed(self.specs[layer], self.factors[layer], self.options(layer))
        assert [o.choice for o in options] == [o.choice for o in self.options(layer)]
        return {o.choice: o.cost.latency_ns / 1e3 for o in options}, time


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(small(), images(64))


def test_the_original_and_its_layers_take_what_they_take(bench: Bench) -> None:
    with bench.device:
        original = bench.table().original
    layers = {
        "conv1": takes_us(64, (8, 18)),
        "conv2": takes_us(16, (12, 72)),
        "mix": takes_us(16, (12, 12)),
        "fc": takes_us(1, (5, 12)),
    }
    assert original.layer_ms == pytest.approx({name: 1e-3 * layers[name] for name in bench.specs})
    assert original.whole_ms == pytest.approx(1e-3 * (sum(layers.values()) + 2 * OTHER_US))
    assert original.spread == pytest.approx(0.0, abs=1e-9)


def test_every_form_takes_what_its_stages_take(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diminuendo.engine.latency.table.POINTS", 99)
    found, time = bench.timed("conv2")
    assert {"svd", "tucker2"} == {choice.format for choice in found}
    for choice, us in found.items():
        if choice.format == "svd":
            expected = takes_us(16, (choice.ranks[0], 72), (12, choice.ranks[0]))
        else:
            first, second = choice.ranks
            expected = takes_us(64, (first, 8)) + takes_us(16, (second, 9 * first), (12, second))
        assert us == pytest.approx(expected, abs=1e-3)
    assert time.dense_ns == pytest.approx(1e3 * takes_us(16, (12, 72)), abs=1)
    with bench.device:
        assert time.whole_ns == pytest.approx(1e6 * bench.table().original.whole_ms, abs=1)
    assert time.spread == pytest.approx(0.0, abs=1e-9)
    assert f"{torch.get_num_threads()} thread(s), batch 1, float32, torch {torch.__version__}" in time.machine


def test_latency_is_no_multiple_of_params(bench: Bench) -> None:
    """Calls cost: the smallest form of a small layer has a tenth of its params and takes longer than it."""
    found, time = bench.timed("mix")
    assert 1e3 * min(found.values()) > time.dense_ns
    assert min(o.cost.params for o in bench.options("mix")) < bench.specs["mix"].params / 5


def equals(count: int) -> nn.Module:
    """Layers of one shape, each with more rungs than are timed."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv1d(48, 48, 3, padding=1) for _ in range(count)))


@pytest.fixture(scope="module")
def wide() -> Bench:
    return Bench(equals(1), torch.randn(64, 48, 20), ("svd",))


def test_between_the_rungs_that_are_timed_latency_is_straight(wide: Bench) -> None:
    options, calls = wide.options("0"), wide.device.calls
    assert len(options) > 1.5 * POINTS
    found, _ = wide.timed("0")
    # The network is run plainly, watched, and once for its inputs; forms have two calls, and go with the dense layer.
    whole = 2 * (ROUNDS + WARM_UPS) + 1
    assert wide.device.calls - calls == whole + (2 * POINTS + 1) * (ROUNDS + WARM_UPS)
    exact = {o.choice: takes_us(20, (o.choice.ranks[0], 144), (48, o.choice.ranks[0])) for o in options}
    ends = options[0].choice, options[-1].choice
    assert [found[end] for end in ends] == pytest.approx([exact[end] for end in ends], abs=1e-3)
    assert found != pytest.approx(exact, abs=1.0)
    # A block of four channels takes 11.52 us: by so much a step between two rungs can be missed.
    step = takes_us(20, (4, 144)) - CALL_US
    assert all(abs(us - exact[choice]) <= step for choice, us in found.items())


def test_latency_never_falls_while_macs_rise(wide: Bench) -> None:
    class Noisy(Device):
        """Every form of odd rank is a third slower."""

        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.slow = 1.3 if func is torch.conv1d and args[1].shape[0] % 2 else 1.0
            return super().__torch_function__(func, types, args, kwargs)

    noisy = Bench(wide.model, torch.randn(64, 48, 20), ("svd",))
    noisy.device = Noisy()
    found, _ = noisy.timed("0")
    values = [found[o.choice] for o in noisy.options("0")]
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert values[0] < values[-1]


def test_what_was_timed_once_is_known_to_other_layers_and_other_jobs(tmp_path: Path) -> None:
    twins = Bench(equals(2), torch.randn(64, 48, 20), ("svd",))
    table = twins.table(tmp_path)
    first, time = twins.timed("0", table)
    calls = twins.device.calls
    twins.device.slow = 3.0  # a busier machine; ratios are known
    second, again = twins.timed("1", table)
    assert second == pytest.approx(first)
    assert twins.device.calls == calls
    assert again.dense_ns == time.dense_ns
    job = Bench(twins.model, torch.randn(64, 48, 20), ("svd",))
    found, _ = job.timed("0", job.table(tmp_path))
    assert found == pytest.approx(first)
    assert job.device.calls == 2 * (2 * (ROUNDS + WARM_UPS) + 1)  # the network alone
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_other_shapes_and_other_devices_are_timed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = bench.table(tmp_path)
    bench.timed("conv1", table)
    calls = bench.device.calls
    bench.timed("conv2", table)
    assert bench.device.calls > calls
    assert len(list(tmp_path.rglob("*.json"))) == 2
    monkeypatch.setattr(torch, "__version__", "99.0")
    calls = bench.device.calls
    bench.timed("conv2", table)
    assert bench.device.calls > calls
    assert len({file.parent for file in tmp_path.rglob("*.json")}) == 2


def test_a_machine_that_gets_slower_moves_no_ratio(bench: Bench) -> None:
    table = bench.table()
    first, _ = bench.timed("conv2", table)
    bench.device.slow = 5.0
    try:
        again, _ = bench.timed("conv2", table)
    finally:
        bench.device.slow = 1.0
    assert again == pytest.approx(first)


class Twice(nn.Module):
    """A layer that is called on two sizes, one of them twice, and one that several samples need."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 12, 3, padding=1)
        self.rare = nn.Linear(12, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(x)).relu()
        x = self.conv(x[..., ::2]).mean(-1)
        if len(x) > 1:
            x = self.rare(x)
        logits: Tensor = self.fc(x)
        return logits


def test_all_calls_count_and_layers_that_are_not_called_take_nothing() -> None:
    torch.manual_seed(3)
    model = Twice()
    bench = Bench(model, torch.randn(32, 12, 16), ("svd",))
    assert set(bench.specs) == {"conv", "rare", "fc"}
    found, time = bench.timed("conv")
    assert time.dense_ns == pytest.approx(1e3 * (2 * takes_us(16, (12, 36)) + takes_us(8, (12, 36))), abs=1)
    low = Choice("svd", (1,))
    assert found[low] == pytest.approx(2 * takes_us(16, (1, 36), (12, 1)) + takes_us(8, (1, 36), (12, 1)), abs=1e-3)
    rare, time = bench.timed("rare")
    assert time.dense_ns == 0
    assert set(rare.values()) == {0.0}


def test_hooks_of_the_owner_are_called_in_whole_forwards_alone_and_nothing_is_changed() -> None:
    model = small()
    calls = []
    model.conv2.register_forward_hook(lambda *_: calls.append(1))
    bench = Bench(model, images(16), ("svd",))
    before, seen = fingerprint(model), len(calls)
    table = bench.table()
    bench.timed("conv2", table)
    whole = 2 * (ROUNDS + WARM_UPS) + 1
    assert len(calls) - seen == whole
    bench.timed("mix", table)
    assert len(calls) - seen == whole
    assert fingerprint(model) == before


def test_forms_are_put_into_the_networks_layout(bench: Bench) -> None:
    layouts = []

    def layout(form: nn.Module) -> nn.Module:
        layouts.append([type(stage).__name__ for stage in form.children()])
        assert not form.training
        return form

    table = bench.table()
    table.layout = layout
    bench.timed("fc", table)
    assert layouts == [["Linear", "Linear"]] * len(bench.options("fc"))


def test_many_forms_are_timed_in_groups_that_fit_into_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diminuendo.engine.latency.table.POINTS", 99)
    whole, _ = bench.timed("conv2")
    monkeypatch.setattr("diminuendo.engine.latency.table.GROUP", 3)
    assert bench.timed("conv2")[0] == pytest.approx(whole)
    monkeypatch.setattr("diminuendo.engine.latency.table.GROUP_BYTES", 1)
    calls = bench.device.calls
    assert bench.timed("conv2")[0] == pytest.approx(whole)
    forms = bench.options("conv2")
    stages = sum({"svd": 2, "tucker2": 3}[o.choice.format] for o in forms)
    whole_networks = 4 * (2 * (ROUNDS + WARM_UPS) + 1)
    assert bench.device.calls - calls == whole_networks + (stages + len(forms)) * (ROUNDS + WARM_UPS)
