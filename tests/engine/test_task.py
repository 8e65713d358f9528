from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import CausalLMOutputWithPast

from diminuendo.engine.task import TOP1, Metric, Samples, SetMetric, Task, TaskError, logits_of, top1_score

SAMPLES = Samples(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))


class Output(NamedTuple):
    hidden: Tensor
    logits: Tensor


def test_samples_of_any_shape_count_and_are_taken_together() -> None:
    samples = Samples({"ids": torch.arange(6).reshape(3, 2), "more": (torch.arange(3), "flag")}, torch.arange(3) * 10)
    assert len(samples) == 3
    taken = samples.take(torch.tensor([2, 0]))
    assert taken.inputs["ids"].tolist() == [[4, 5], [0, 1]]
    assert taken.inputs["more"][0].tolist() == [2, 0]
    assert taken.targets.tolist() == [20, 0]
    assert [batch.targets.tolist() for batch in samples.batches(2)] == [[0, 10], [20]]


def test_samples_are_moved_without_their_graph() -> None:
    weight = torch.ones(2, 1, requires_grad=True)
    moved = Samples((weight * 2,), torch.zeros(2)).to("cpu")
    assert not moved.inputs[0].requires_grad
    assert moved.inputs[0].tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(2)), torch.zeros(3), r"^inputs: .*\(3, 2\), \(2,\).* first dimension"),
        (["a", "b"], torch.zeros(2), r"^inputs: there is no tensor in it \(got list\); give tensors"),
        (torch.zeros(2), torch.tensor(1.0), r"^targets: .*\(\)"),
        (torch.zeros(3, 4), torch.zeros(2), r"^targets: 2 for 3 inputs \(shapes \(2,\) and \(3, 4\)\); give one"),
    ],
)
def test_what_is_no_samples_is_refused(inputs: Any, targets: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Samples(inputs, targets)


def test_logits_are_found_in_what_networks_return() -> None:
    one, two = torch.zeros(4, 3), torch.ones(4, 2)
    assert logits_of(one) is one
    assert logits_of(torch.arange(4)).tolist() == [0, 1, 2, 3]
    assert logits_of({"hidden": one, "logits": two}) is two
    assert logits_of(Output(one, two)) is two
    assert logits_of(CausalLMOutputWithPast(logits=two, hidden_states=(one,))) is two
    assert logits_of(SimpleNamespace(logits=two)) is two
    assert logits_of((torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64), [two], one)) is two
    assert logits_of({"logits": None, "scores": one}) is one


@pytest.mark.parametrize(
    "outputs", [None, "text", torch.tensor(1.0), (torch.zeros(4), 3), torch.zeros(2, 2, dtype=torch.complex64)]
)
def test_outputs_without_logits_say_what_to_give(outputs: Any) -> None:
    with pytest.raises(TaskError, match=r"^logits: no .*give Task\.logits"):
        logits_of(outputs)


def test_the_default_loss_and_metric_take_the_logits_of_any_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 4, generator=generator), torch.randint(0, 4, (6,), generator=generator)
    task = Task(nn.Identity(), SAMPLES, SAMPLES)
    outputs = CausalLMOutputWithPast(logits=logits)
    assert float(task.loss_of(outputs, targets)) == float(functional.cross_entropy(logits, targets))
    assert float(task.loss_of(logits, targets.to(torch.int32))) == float(functional.cross_entropy(logits, targets))
    assert task.scored(outputs) is logits


def test_ones_own_loss_and_metric_take_what_the_network_returns() -> None:
    seen: list[Any] = []

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        seen.append(outputs)
        return outputs["score"].sum()  # type: ignore[no-any-return]

    task = Task(nn.Identity(), SAMPLES, SAMPLES, loss=loss, metric=Metric("m", lambda outputs, targets: outputs))
    outputs = {"score": torch.ones(2, 3), "logits": torch.zeros(2, 3)}
    assert float(task.loss_of(outputs, torch.zeros(2))) == 6.0
    assert seen[0] is outputs
    assert task.scored(outputs) is outputs


def test_named_losses_are_summed() -> None:
    parts = {"one": torch.tensor(2.0), "two": torch.tensor([0.5])}
    task = Task(nn.Identity(), SAMPLES, SAMPLES, loss=lambda outputs, targets: parts)
    assert float(task.loss_of(None, None)) == 2.5


@pytest.mark.parametrize("name", ["loss", "logits", "augment", "optimizer", "scheduler", "forward", "fit"])
def test_what_is_no_function_is_refused_by_name(name: str) -> None:
    made = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)  # an optimizer in the place of what makes one
    changes: dict[str, Any] = {name: made}
    with pytest.raises(TaskError, match=rf"^{name}: a SGD is not a function; give "):
        Task(nn.Identity(), SAMPLES, SAMPLES, **changes)


def nothing(outputs: Any, targets: Any) -> Tensor:
    return torch.zeros(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Metric("", nothing), r"^metric\.name: '' cannot be shown in a report; give a short name"),
        (lambda: Metric("a\nb", nothing), r"^metric\.name: 'a\\nb' cannot be shown"),
        (lambda: SetMetric(7, nothing, float), r"^metric\.name: 7 cannot be shown"),  # type: ignore[arg-type]
        (lambda: Metric("a", 7), r"^metric\.score: a int is not a function; give"),  # type: ignore[arg-type]
        (lambda: SetMetric("a", 7, float), r"^metric\.statistics: a int is not"),  # type: ignore[arg-type]
        (lambda: SetMetric("a", nothing, 7), r"^metric\.value: a int is not"),  # type: ignore[arg-type]
        (
            lambda: Task(nn.Linear(1, 2), SAMPLES, SAMPLES, metric=nothing),  # type: ignore[arg-type]
            r"^metric: a function is neither a Metric nor a SetMetric; give Metric\(name, score\)",
        ),
    ],
)
def test_metrics_that_cannot_be_asked_or_named_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make()


def test_samples_tell_whether_they_are_the_same_and_of_classes() -> None:
    one = Samples((torch.tensor([1.0, torch.nan]), "x"), torch.tensor([1, 0]))
    assert one.same(Samples((torch.tensor([1.0, torch.nan]), "y"), torch.tensor([1, 0])))
    assert not one.same(Samples((torch.tensor([1.0, 2.0]), "x"), torch.tensor([1, 0])))
    assert not one.same(one.head(1))
    assert one.classes is one.targets
    assert Samples(torch.zeros(2), torch.zeros(2)).classes is None
    assert Samples(torch.zeros(2), torch.zeros(2, 3, dtype=torch.int64)).classes is None
    assert Samples(torch.zeros(2), {"a": torch.zeros(2)}).classes is None


def test_a_language_models_loss_and_metric_are_over_tokens() -> None:
    # Of the first text's 3 tokens one is left out and one of two is right; of the second's all three are.
    targets = torch.tensor([[1, 0, -100], [2, 2, 1]])
    guesses = torch.tensor([[1, 2, 0], [2, 2, 1]])
    logits = functional.one_hot(guesses, 3).to(torch.float32) * 9
    task = Task(nn.Identity(), SAMPLES, SAMPLES, logits=lambda outputs: outputs.logits.flatten(0, 1))
    outputs = CausalLMOutputWithPast(logits=logits)
    assert top1_score(task.scored(outputs), targets).tolist() == [50.0, 100.0]
    expected = functional.cross_entropy(logits.transpose(1, 2), targets)
    torch.testing.assert_close(task.loss_of(outputs, targets), expected)
    assert top1_score(logits.transpose(1, 2), targets).tolist() == [50.0, 100.0]


def test_top1_of_a_text_without_counted_tokens_is_0() -> None:
    assert top1_score(torch.zeros(1, 3, 2), torch.full((1, 2), -100)).tolist() == [0.0]
    assert TOP1.score is top1_score


def test_outputs_of_one_value_need_a_loss_and_a_metric_of_ones_own() -> None:
    with pytest.raises(TaskError, match=r"^logits: .* not shape \(2,\); give Task\.logits, or Task\.loss"):
        Task(nn.Identity(), SAMPLES, SAMPLES).loss_of(torch.zeros(2), torch.zeros(2))
    with pytest.raises(TaskError, match=r"not shape \(2,\)"):
        top1_score(torch.zeros(2), torch.zeros(2))


def test_targets_that_are_no_tensor_need_a_loss_of_ones_own() -> None:
    with pytest.raises(TaskError, match=r"^targets: .* not a dict; give Task\.loss"):
        Task(nn.Identity(), SAMPLES, SAMPLES).loss_of(torch.zeros(2, 3), {"a": torch.zeros(2)})
