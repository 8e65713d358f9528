"""The whole job inline, on networks that take and return all kinds of values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from tests.engine import tasks
from tests.engine.tasks import held
from tests.engine.threads import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn

from diminuendo.engine import Compressed, Task, compress, load, tree, weights
from diminuendo.engine.gather import evaluation
from diminuendo.engine.score import outputs_of, scores_of

DELTA = 5.0


def outcome(task: Task, out: Path | None = None) -> Compressed:
    return compress(task, DELTA, effort="quick", out=out)


def bits(value: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in tree.leaves(value)]


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        tasks.two_inputs,
        tasks.narrow_weights,
        tasks.records,
        tasks.shared_weights,
        tasks.recurrent,
        tasks.quantized_in_part,
        tasks.language,
        tasks.regression,
    ],
)
def test_networks_of_any_kind_get_smaller_inside_delta(make: Callable[[], Task], tmp_path: Path) -> None:
    task = make()
    before = weights.to_bytes(task.model)
    done = outcome(task, tmp_path / "result")
    certificate = done.certificate
    assert done.inside_delta
    assert certificate["drop"] <= DELTA
    assert certificate["params_ratio"] > 1.3
    sign = 1.0 if task.metric.higher_is_better else -1.0
    assert certificate["drop"] == pytest.approx(sign * (certificate["original"] - certificate["compressed"]))

    assert weights.to_bytes(task.model) == before
    counts = [sum(p.numel() for p in model.parameters()) for model in (task.model, done.model)]
    assert counts[0] / counts[1] == certificate["params_ratio"]
    types = {p.dtype for p in task.model.parameters()}
    assert {p.dtype for p in done.model.parameters()} == types

    again = load(tmp_path / "result", task.model)
    batch = tree.take(held(task.evaluation).inputs, slice(0, 50))
    with torch.no_grad():
        outputs, others = (bits(tree.call(model, batch)) for model in (done.model, again))
    assert outputs
    assert all(torch.equal(one, two) for one, two in zip(outputs, others, strict=True))


def test_the_certificates_metric_is_what_the_loaded_network_scores(tmp_path: Path) -> None:
    """Two halves of one evaluation set: the search half's and the sealed half's means make the whole's."""
    task = tasks.records()
    done = outcome(task, tmp_path / "result")
    samples = held(task.evaluation)
    outputs = outputs_of(done.model, samples.inputs, part=task.scored)
    whole = float(scores_of(task.metric, outputs, samples.targets).mean())
    outputs = outputs_of(task.model, samples.inputs, part=task.scored)
    original = float(scores_of(task.metric, outputs, samples.targets).mean())
    search = original * 2 - done.certificate["original"] - done.certificate["search_drop"]
    assert whole == pytest.approx((done.certificate["compressed"] + search) / 2, abs=1.0)


def test_the_owners_loaders_forward_losses_optimizer_scheduler_and_metric_are_used(tmp_path: Path) -> None:
    task = tasks.own_everything()
    done = outcome(task, tmp_path / "result")
    certificate = done.certificate
    assert done.inside_delta
    assert certificate["params_ratio"] > 1.3
    assert certificate["drop"] == pytest.approx(certificate["compressed"] - certificate["original"])
    inputs = held(evaluation(task.evaluation)).inputs
    again = tasks.run_parts(load(tmp_path / "result", task.model), inputs)
    assert torch.equal(again["logits"], tasks.run_parts(done.model, inputs)["logits"])


def test_tied_weights_stay_tied_and_are_stored_once(tmp_path: Path) -> None:
    done = outcome(tasks.shared_weights(), tmp_path / "result")
    model = cast(tasks.Shared, done.model)
    assert model.two.weight is model.one.weight
    names = load_file(tmp_path / "result" / "model.safetensors").keys()
    assert "one.weight" in names
    assert "two.weight" not in names


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # from importing torch's compiler
def test_what_is_around_a_network_makes_no_difference() -> None:
    """The network has dropout: another order of random numbers would show."""
    task = tasks.two_inputs()
    expected = outcome(task)
    torch.manual_seed(7)  # the global seed does not matter
    for wrapped in (nn.DataParallel(task.model), cast(nn.Module, torch.compile(task.model))):
        done = outcome(Task(wrapped, task.train, task.evaluation, recipe=task.recipe, name=task.name))
        assert done.plan == expected.plan
        assert done.certificate["compressed"] == expected.certificate["compressed"]
        state, other = done.model.state_dict(), expected.model.state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in other.items())
