from __future__ import annotations

import copy
import dataclasses
import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.engine.tasks import held
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ConstantLR

from diminuendo.engine import tree, weights
from diminuendo.engine.score import NotFiniteError
from diminuendo.engine.store import DirectoryStore
from diminuendo.engine.task import TOP1, Metric, Samples, Task, TaskError
from diminuendo.engine.workbench import Cache, UserCodeError, Workbench, fast, user_code

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # from importing torch's compiler


class TwoInputs(nn.Module):
    """Takes a record of two inputs and words, and returns a record of logits and words."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(2, 4)

    def forward(self, left: Tensor, rest: dict[str, Any]) -> dict[str, Any]:
        return {"words": rest["words"], "logits": self.left(left) + self.right(rest["right"])}


def samples(count: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(count, 3, generator=generator), torch.randn(count, 2, generator=generator)
    targets = torch.randint(0, 4, (count,), generator=generator)
    return Samples({"left": left, "rest": {"right": right, "words": "some"}}, targets)


def task(**changes: Any) -> Task:
    torch.manual_seed(0)
    whole = Task(TwoInputs(), samples(31, 1), samples(41, 2))
    return dataclasses.replace(whole, **changes)


def test_the_halves_are_apart_and_stratified() -> None:
    bench = Workbench(task(), 0)
    first, second = bench.halves
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(41))
    counts = [torch.bincount(held(half).targets, minlength=4) for half in (bench.search_half, bench.sealed_half)]
    assert bool(((counts[0] - counts[1]).abs() <= 1).all())
    inputs = held(bench.task.evaluation).inputs
    assert torch.equal(held(bench.search_half).inputs["rest"]["right"], inputs["rest"]["right"][first])


def test_targets_that_are_no_classes_are_split_too() -> None:
    evaluation = samples(40, 2)
    nested = Samples(evaluation.inputs, {"boxes": torch.zeros(40, 2), "label": evaluation.targets})
    assert len(Workbench(task(evaluation=nested), 0).sealed_half) == 20


def test_what_was_measured_is_what_a_loop_would_give() -> None:
    bench = Workbench(task(), 0)
    half = held(bench.search_half)
    logits = bench.task.model(**half.inputs)["logits"].detach()
    hits = 100.0 * (logits.argmax(dim=1) == half.targets).to(torch.float64)
    torch.testing.assert_close(bench.reference, logits)
    assert bench.baseline == pytest.approx(float(hits.mean()))
    assert torch.equal(bench.measure(bench.model, half)[0], hits)


def test_a_metric_of_ones_own_is_given_what_the_network_returns_batch_by_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Any, int]] = []

    def score(outputs: dict[str, Any], targets: Tensor) -> Tensor:
        seen.append((outputs["words"], len(targets)))
        return outputs["logits"][:, 0]  # type: ignore[no-any-return]

    monkeypatch.setattr("diminuendo.engine.workbench.BATCH", 8)
    bench = Workbench(task(metric=Metric("first", score)), 0)
    assert bench.baseline == pytest.approx(float(bench.reference[:, 0].mean()))
    assert seen == [("some", 8), ("some", 8), ("some", 5)]


def test_outputs_that_are_not_finite_are_named() -> None:
    evaluation = samples(40, 2)
    evaluation.inputs["left"][:] = torch.nan
    with pytest.raises(NotFiniteError, match=r"^logits: they are NaN or infinite on evaluation samples"):
        _ = Workbench(task(evaluation=evaluation), 0).baseline


def test_classes_may_be_ruled_out() -> None:
    def masked(outputs: dict[str, Any]) -> Tensor:
        return outputs["logits"].masked_fill(torch.tensor([False, False, False, True]), -torch.inf)  # type: ignore[no-any-return]

    assert 0.0 <= Workbench(task(logits=masked), 0).baseline <= 100.0


def test_calibration_and_training_inputs_are_nested_as_the_data_is() -> None:
    bench = Workbench(task(), 0)
    found = bench.calibration.inputs
    assert tree.count(found) == len(bench.train)
    assert sorted(found["left"][:, 0].tolist()) == sorted(held(bench.train).inputs["left"][:, 0].tolist())
    outputs = bench.model(**found)
    assert bench.calibration.logits(outputs) is outputs["logits"]
    assert tree.count(bench.training_inputs(7)) == 7
    assert tree.count(Workbench(task(train=samples(1, 1)), 0).calibration.inputs) == 1


def test_the_networks_copy_is_its_own_and_unwrapped() -> None:
    model = TwoInputs().train()
    for wrapped in (model, nn.DataParallel(model), cast(nn.Module, torch.compile(model))):
        bench = Workbench(task(model=wrapped), 0)
        assert type(bench.model) is TwoInputs
        assert not bench.model.training
        assert model.training
        assert bench.model.left.weight is not model.left.weight
        assert torch.equal(bench.model.left.weight, model.left.weight)


def test_a_lazy_network_is_refused_with_its_layer() -> None:
    with pytest.raises(TaskError, match=r"^model: layer '0': LazyLinear has no weights yet"):
        Workbench(task(model=nn.Sequential(nn.LazyLinear(3))), 0)


def test_a_network_that_cannot_be_copied_is_refused_with_the_reason() -> None:
    model = TwoInputs()
    model.words = (word for word in ("a", "b"))  # type: ignore[assignment]
    with pytest.raises(TaskError, match=r"^model: attribute 'words' \(generator\)"):
        Workbench(task(model=model), 0)


def test_images_get_the_layout_that_is_fast_and_nothing_else_does() -> None:
    model = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Linear(2, 2)])
    images = torch.zeros(1, 3, 8, 8)
    assert fast(copy.deepcopy(model), (images,))[0].weight.is_contiguous()  # type: ignore[index]
    laid_out = fast(model, images)
    assert laid_out[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]
    assert laid_out[1].weight.is_contiguous()  # type: ignore[index]


def changed(change: Callable[[Task], Any]) -> Task:
    other = copy.deepcopy(task())
    with torch.no_grad():
        change(other)
    return other


def test_the_digest_is_of_all_that_outcomes_depend_on() -> None:
    digests = {
        "same": Workbench(task(), 0).digest,
        "weight": Workbench(changed(lambda t: cast(TwoInputs, t.model).right.bias.add_(1)), 0).digest,
        "train": Workbench(changed(lambda t: held(t.train).inputs["rest"]["right"].add_(1)), 0).digest,
        "target": Workbench(changed(lambda t: held(t.evaluation).targets.add_(1)), 0).digest,
        "words": Workbench(changed(lambda t: held(t.train).inputs["rest"].update(words="others")), 0).digest,
        "seed": Workbench(task(), 1).digest,
        "metric": Workbench(task(metric=dataclasses.replace(TOP1, name="other")), 0).digest,
    }
    assert len(set(digests.values())) == len(digests)
    assert Workbench(task(), 0).digest == digests["same"]


def scaled(factor: float) -> Callable[[Any, Tensor], Tensor]:
    def loss(outputs: dict[str, Any], targets: Tensor) -> Tensor:
        return factor * outputs["logits"].sum()  # type: ignore[no-any-return]

    return loss


def test_the_digest_is_of_the_owners_functions_as_far_as_they_can_be_told() -> None:
    changes: dict[str, dict[str, Any]] = {
        "none": {},
        "loss": {"loss": scaled(1.0)},
        "closure": {"loss": scaled(2.0)},
        "partial": {"loss": functools.partial(functional.cross_entropy, label_smoothing=0.1)},
        "other partial": {"loss": functools.partial(functional.cross_entropy, label_smoothing=0.2)},
        "object": {"loss": nn.CrossEntropyLoss()},
        "other object": {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        "augment": {"augment": lambda inputs, generator: inputs},
        "optimizer": {"optimizer": lambda parameters: torch.optim.SGD(parameters, 0.1)},
        "other optimizer": {"optimizer": lambda parameters: torch.optim.SGD(parameters, 0.2)},
        "scheduler": {"scheduler": lambda optimizer, steps: ConstantLR(optimizer)},
        "forward": {"forward": lambda network, inputs: network(**inputs)},
        "metric": {"metric": Metric("top1", lambda outputs, targets: outputs["logits"][:, 0])},
        "set": {"loss": lambda outputs, targets: targets in {"a", "b", "c"}},
    }
    digests = {name: Workbench(task(**change), 0).digest for name, change in changes.items()}
    assert len(set(digests.values())) == len(digests)
    assert Workbench(task(loss=scaled(1.0)), 0).digest == digests["loss"]


FUNCTIONS = """
from torch import nn
from diminuendo.engine.digest import Digest
digest = Digest("")
digest.add_code("loss", lambda outputs, kind=nn.CrossEntropyLoss(): outputs if "x" in {"a", "b", "c", "d"} else kind)
digest.add_code("forward", print)
found = digest.hexdigest()
"""


def test_the_digest_of_functions_is_the_same_in_every_process() -> None:
    """Sets of strings are in another order where hashes have another seed, and objects at other addresses."""
    names = {"__name__": "__main__"}
    exec(FUNCTIONS, names)
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FUNCTIONS + "print(found)"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == names["found"]


def test_the_digest_tells_where_a_tensor_is() -> None:
    one, two = torch.zeros(31, 1), torch.ones(31, 1)
    train = [Samples({"left": a, "right": b}, torch.zeros(31)) for a, b in ((one, two), (two, one))]
    assert len({Workbench(task(train=each), 0).digest for each in train}) == 2


class Stateful(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"words": "some", "table": torch.ones(2), "set": {1, 2}}

    def set_extra_state(self, state: Any) -> None:
        return None


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the move of quantization to torchao
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)))  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(3, 3, dtype=torch.bfloat16),
        lambda: nn.Linear(3, 3, dtype=torch.complex64),
        lambda: Stateful(3, 3),
        quantized,
    ],
    ids=["bfloat16", "complex", "extra state", "quantized"],
)
def test_networks_of_any_kind_have_a_digest_that_their_weights_change(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    one, other = make(), make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        digests = [Workbench(task(model=model), 0).digest for model in (one, one, other)]
    assert digests[0] == digests[1] != digests[2]


def test_errors_that_name_their_remedy_pass_and_others_are_the_owners() -> None:
    with pytest.raises(TaskError, match=r"^loss: odd$"), user_code("fine-tuning"):
        raise TaskError("loss: odd")
    said = r"^fine-tuning: KeyError: 'x' \(.*test_workbench\.py:\d+\)$"
    with pytest.raises(UserCodeError, match=said), user_code("fine-tuning"):
        raise KeyError("x")
    with pytest.raises(MemoryError), user_code("fine-tuning"):
        raise MemoryError


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    keys = [store.put(weights.to_bytes(nn.Linear(8, 8, bias=False))) for _ in range(3)]
    monkeypatch.setattr("diminuendo.engine.workbench.CACHED_BYTES", 2 * 8 * 8 * 4)
    cache = Cache(store)
    first, second = cache.tensors(keys[0]), cache.tensors(keys[1])
    assert cache.tensors(keys[0]) is first
    cache.tensors(keys[2])
    assert cache.tensors(keys[0]) is first
    assert cache.tensors(keys[1]) is not second
