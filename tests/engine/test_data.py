from __future__ import annotations

import multiprocessing
import shutil
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tests.engine.datasets import (
    Endless,
    Exiting,
    Items,
    Measured,
    Odd,
    Pairs,
    Raising,
    Running,
    Unseeded,
    padded,
    values,
)
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from diminuendo.engine import bundle, data, reading
from diminuendo.engine.data import Indexed, Stream
from diminuendo.engine.digest import Digest
from diminuendo.engine.gather import evaluation, example, training
from diminuendo.engine.task import Samples, TaskError
from diminuendo.engine.usercode import UserCodeError

BYTES = 3 * 4 + 8
"""Of a sample of `Pairs`: three float32 and a class."""


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = multiprocessing.active_children()  # fixtures of the whole session may have some
    yield
    assert [process for process in multiprocessing.active_children() if process not in before] == []


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MEMORY_BYTES", 20 * BYTES - 1)


def read(found: Samples | Stream | Indexed) -> Samples:
    assert isinstance(found, Samples)
    return found


def streamed(found: Samples | Stream) -> Stream:
    assert isinstance(found, Stream)
    return found


def passed(stream: Stream, seed: int, count: int) -> list[Samples]:
    with closing(stream.batches(seed)) as batches:
        return list(islice(batches, count))


def rows(batches: list[Samples]) -> list[int]:
    """Which rows of `values` these are."""
    return [int(row) // 3 for batch in batches for row in batch.inputs[:, 0]]


def test_samples_in_memory_stay_what_they_are() -> None:
    samples = Samples(torch.zeros(4, 2), torch.zeros(4))
    assert training(samples, 2) is samples
    assert evaluation(samples) is samples


@pytest.mark.parametrize(
    "given",
    [
        Pairs(10),
        DataLoader(Pairs(10), 4, shuffle=True),
        DataLoader(Pairs(10), 4, shuffle=True, drop_last=True),
        DataLoader(Running(10), 4),
        DataLoader(Items([(values(10)[i : i + 5], torch.arange(i, i + 5) % 4) for i in (0, 5)]), batch_size=None),
        TensorDataset(values(10), torch.arange(10) % 4),
        [(values(10)[i], i % 4) for i in range(10)],
    ],
    ids=["dataset", "loader", "drop_last", "iterable", "batches of its own", "tensors", "list"],
)
def test_data_that_fits_is_read_once_in_the_datasets_order(given: Any) -> None:
    for found in (read(training(given, 4)), read(evaluation(given))):
        assert torch.equal(found.inputs, values(10))
        assert found.targets.tolist() == [i % 4 for i in range(10)]


def test_a_loaders_workers_are_spawned_and_closed(tmp_path: Path) -> None:
    """The dataset is of a bundle, which a spawned process has not imported, and says how it was started."""
    (tmp_path / "task.py").write_text(
        textwrap.dedent("""
        import multiprocessing, torch
        from torch.utils.data import Dataset
        class Own(Dataset):
            def __len__(self):
                return 6
            def __getitem__(self, index):
                spawned = type(multiprocessing.current_process()).__name__ == "SpawnProcess"
                return torch.tensor([index, int(spawned)]), index
        def task():
            import diminuendo.engine as engine
            from torch.utils.data import DataLoader
            loader = DataLoader(Own(), batch_size=2, shuffle=True, num_workers=1, persistent_workers=True)
            return engine.Task(torch.nn.Linear(2, 2), loader, loader)
        """)
    )
    loader = bundle.load(tmp_path).train
    found = read(training(loader, 64))
    assert found.inputs.tolist() == [[index, 1] for index in range(6)]
    assert isinstance(loader, DataLoader)
    assert loader.multiprocessing_context is None


def test_a_worker_gets_the_bundle_that_its_dataset_is_of_and_no_other(tmp_path: Path) -> None:
    other, own = tmp_path / "other", tmp_path / "own"
    for folder, text in ((other, "import torch"), (own, "from beside import Own")):
        folder.mkdir()
        (folder / "task.py").write_text(
            f"{text}\n"
            "def task():\n"
            "    import torch, diminuendo.engine as engine\n"
            "    from torch.utils.data import DataLoader\n"
            "    data = [(torch.zeros(2), 0)] if 'Own' not in globals() else Own()\n"
            "    loader = DataLoader(data, batch_size=1, num_workers=1)\n"
            "    return engine.Task(torch.nn.Linear(2, 2), loader, loader)\n"
        )
    (own / "beside.py").write_text(
        "import torch\nfrom torch.utils.data import Dataset\n"
        "class Own(Dataset):\n"
        "    def __len__(self):\n        return 3\n"
        "    def __getitem__(self, index):\n        return torch.full((2,), index), index\n"
    )
    bundle.load(other)
    shutil.rmtree(other)
    assert read(training(bundle.load(own).train, 64)).targets.tolist() == [0, 1, 2]


def test_a_dataset_that_augments_is_streamed_through_its_workers() -> None:
    loader = DataLoader(Pairs(10, noise=0.01), 4, shuffle=True, num_workers=1)
    stream = streamed(training(loader, 64))
    assert (len(stream), stream.steps) == (10, 3)
    batches = passed(stream, 5, 7)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2, 4]
    first, second = rows([_rounded(b) for b in batches[:3]]), rows([_rounded(b) for b in batches[3:6]])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert stream.repeats


def _rounded(batch: Samples) -> Samples:
    return Samples(batch.inputs.round(), batch.targets)


@pytest.mark.parametrize("generator", [None, torch.Generator()], ids=["global", "own"])
def test_the_order_follows_the_seed_alone(generator: torch.Generator | None) -> None:
    loader = DataLoader(Pairs(12, noise=0.01), 4, shuffle=True, generator=generator)
    stream = streamed(training(loader, 64))
    torch.manual_seed(0)
    numpy.random.seed(0)
    one = passed(stream, 1, 5)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    again, other = passed(stream, 1, 5), passed(stream, 2, 5)
    assert all(a.same(b) for a, b in zip(one, again, strict=True))
    assert not one[0].same(other[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_bare_dataset_is_streamed_shuffled_in_batches_of_the_recipe() -> None:
    stream = streamed(training(Pairs(9, noise=0.01), 4))
    assert [len(batch) for batch in passed(stream, 0, 3)] == [4, 4, 1]


def test_the_loaders_sampler_decides_what_is_read() -> None:
    sampler = Odd(10)
    assert rows([read(training(DataLoader(Pairs(10), 2, sampler=sampler), 64))]) == [1, 3, 5, 7, 9]
    sampler = Odd(10)
    stream = streamed(training(DataLoader(Pairs(10, noise=0.01), 2, sampler=sampler), 64))
    sampler.passes.clear()
    passed(stream, 0, 7)
    assert sampler.passes == [0, 1, 2]


def test_a_sampler_that_chooses_anew_in_each_pass_is_asked_in_each_pass() -> None:
    sampler = WeightedRandomSampler(torch.ones(100).tolist(), 8)
    stream = streamed(training(DataLoader(Pairs(100), 4, sampler=sampler), 64))
    assert (len(stream), stream.steps) == (8, 2)
    assert set(rows(passed(stream, 0, 2))) != set(rows(passed(stream, 1, 2)))
    replacing = RandomSampler(Pairs(100), replacement=True)
    assert isinstance(training(DataLoader(Pairs(100), 4, sampler=replacing), 64), Stream)


def test_data_that_is_too_large_is_read_as_it_is_needed(little_memory: None) -> None:
    dataset = Pairs(20)
    stream = streamed(training(DataLoader(dataset, 4), 64))
    dataset.asked.clear()
    assert stream.some([17, 3, 5]).inputs[:, 0].tolist() == [51.0, 9.0, 15.0]
    assert dataset.asked == [17, 3, 5]
    half = evaluation(dataset)
    assert isinstance(half, Indexed)
    assert half.classes is not None
    assert half.classes.tolist() == [i % 4 for i in range(20)]
    part = half.take(torch.tensor([19, 2, 4]))
    dataset.asked.clear()
    assert rows([part.head(2)]) == [19, 2]
    assert dataset.asked == [19, 2]
    with closing(part.batches(2)) as batches:
        assert [rows([batch]) for batch in batches] == [[19, 2], [4]]
    assert part.classes is not None
    assert part.classes.tolist() == [3, 2, 0]


def test_what_is_read_of_a_stream_is_bounded(little_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PART_BYTES", 5 * BYTES)
    assert len(streamed(training(Pairs(20), 4)).some(range(20))) == 5


def test_an_iterable_that_is_too_large_needs_a_length(little_memory: None) -> None:
    stream = streamed(training(DataLoader(Measured(20, 20), 4), 64))
    assert (len(stream), stream.steps) == (20, 5)
    assert rows(passed(stream, 0, 6)) == [*range(20), *range(4)]
    assert rows([stream.some([7, 1, 3, 2, 0, 9])]) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(TaskError, match=r"^train: \d+ samples were read and there is no end; give .* a __len__"):
        training(DataLoader(Running(20), 4), 64)
    with pytest.raises(TaskError, match=r"^evaluation: \d+ samples fill .* read by index"):
        evaluation(DataLoader(Measured(20, 20), 4))


def test_an_iterable_without_an_end_but_with_a_length_is_cut_there() -> None:
    assert len(read(training(DataLoader(Measured(None, 12), 4), 64))) == 12


def test_an_iterable_that_shuffles_is_streamed() -> None:
    stream = streamed(training(DataLoader(Running(20, shuffled=True), 4), 64))
    assert (len(stream), stream.steps) == (20, 5)
    assert sorted(rows(passed(stream, 3, 5))) == list(range(20))


def test_lists_that_torch_makes_of_tuples_are_positional_again() -> None:
    two = Items([((torch.zeros(2), torch.ones(1)), {"a": 1.0}) for _ in range(3)])
    found = read(training(two, 2))
    assert isinstance(found.inputs, tuple)
    assert [tuple(part.shape) for part in found.inputs] == [(3, 2), (3, 1)]
    assert found.targets["a"].tolist() == [1.0, 1.0, 1.0]


def texts(lengths: list[int]) -> Items:
    return Items([(torch.ones(length), 0) for length in lengths])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, r"^train: a int cannot be read; give Samples\(inputs, targets\), a torch DataLoader"),
        (torch.zeros(3, 2), r"^train: a Tensor cannot be read"),
        ([], r"^train: there are no samples"),
        (DataLoader(Items([]), 4), r"^train: there are no samples"),
        (DataLoader(Running(0), 4), r"^train: there are no samples"),
        (DataLoader(Pairs(3), 4, sampler=[]), r"^train: there are no samples"),
        (TensorDataset(torch.zeros(3, 2)), r"^train: a batch is a list of 1, not \(inputs, targets\): .* no labels"),
        (Items([torch.zeros(2)] * 3), r"^train: a batch is one tensor of shape \(3, 2\), not \(inputs, targets\)"),
        (Items([{"x": 1.0, "y": 2}] * 3), r"^train: a batch is a dict with 'x', 'y', not .* collate_fn"),
        (Items([(1.0, 2.0, 3)] * 3), r"^train: a batch is a list of 3"),
        (Items([(torch.zeros(2), "cat")] * 3), r"^train: in a batch, targets: there is no tensor in it"),
        (DataLoader(texts([3, 3, 2, 2]), 2, collate_fn=padded), r"^train: its batches cannot be put together .* pad"),
        (DataLoader(Pairs(3), 1, sampler=Endless()), r"^train: .* samples were read and there is no end"),
        (DataLoader(Running(None), 4), r"^train: .* samples were read and there is no end"),
        (
            DataLoader(Pairs(3), 2, num_workers=1, collate_fn=lambda items: items),
            r"^train: the loader cannot be sent to its workers, which are spawned .* num_workers=0",
        ),
    ],
)
def test_data_that_cannot_be_worked_with_is_named(given: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_SAMPLES", 1000)
    monkeypatch.setattr("diminuendo.engine.reader.MOST_SAMPLES", 1000)
    with pytest.raises(TaskError, match=message):
        training(given, 4)


def test_evaluation_data_without_an_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_SAMPLES", 1000)
    with pytest.raises(TaskError, match=r"^evaluation: 1,004 samples were read and there is no end; give .* __len__"):
        evaluation(DataLoader(Running(None), 4))


def test_so_are_many_small_batches_and_a_large_first_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_BATCHES", 10)
    with pytest.raises(TaskError, match=r"^train: 40 samples were read and there is no end"):
        training(DataLoader(Running(None), 4), 64)
    monkeypatch.setattr(reading, "MEMORY_BYTES", 1)
    with pytest.raises(TaskError, match=r"^train: 4 samples were read and there is no end"):
        training(DataLoader(Running(None), 4), 64)


@pytest.mark.parametrize("given", [Pairs(40, noise=0.01), DataLoader(Unseeded(), 4)])
def test_evaluation_data_that_is_random_is_refused(given: Any) -> None:
    with pytest.raises(TaskError, match=r"^evaluation: a sample is another one when it is read again; leave"):
        evaluation(given)


def test_what_follows_no_seed_is_told_by_its_shape_alone() -> None:
    one, other = (streamed(training(DataLoader(Unseeded(), 4), 64)) for _ in range(2))
    assert not one.probe.same(other.probe)
    assert digest_of(one) == digest_of(other)
    seeded, moved = (streamed(training(DataLoader(Pairs(10, noise=noise), 4), 64)) for noise in (0.01, 0.02))
    assert digest_of(seeded) != digest_of(moved)


@pytest.mark.parametrize("read_by", [lambda given: training(given, 4), evaluation], ids=["train", "evaluation"])
def test_what_the_owners_code_raises_is_theirs(read_by: Callable[[Any], Any]) -> None:
    with pytest.raises(UserCodeError, match=r"reading the data: OSError: file 9 is gone") as caught:
        read_by(Raising(10))
    assert "datasets.py" in caught.value.traceback_text
    with pytest.raises(UserCodeError, match=r"reading the data: TypeError: default_collate"):
        read_by(Items([(object(), 1)] * 3))


def test_what_a_worker_raises_is_the_owners_too() -> None:
    with pytest.raises(UserCodeError, match=r"^train: reading the data: OSError") as caught:
        training(DataLoader(Raising(10), 4, num_workers=1), 4)
    assert "file 9 is gone" in caught.value.traceback_text


def test_a_worker_that_ends_is_named_with_what_may_help() -> None:
    with pytest.raises(TaskError, match=r'^train: DataLoader worker .* exited .* `if __name__ == "__main__":`'):
        training(DataLoader(Exiting(10), 4, num_workers=1), 4)


@pytest.mark.parametrize(
    "given",
    [Samples(values(4), torch.zeros(4)), Pairs(4), DataLoader(Pairs(4), 2), DataLoader(Running(None), 2)],
    ids=["samples", "dataset", "loader", "endless"],
)
def test_an_example_is_one_sample_and_reads_little(given: Any) -> None:
    found = example(given)
    assert tuple(found.shape) == (1, 3)
    assert found[0, 0] == 0.0


def digest_of(found: Samples | Stream | Indexed) -> str:
    digest = Digest("")
    found.add_to(digest, "data")
    return digest.hexdigest()


def test_digests_tell_data_apart(little_memory: None) -> None:
    class Shifted(Pairs):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            row, target = super().__getitem__(index)
            return row + (index == 13), target

    assert digest_of(training(Pairs(20), 4)) == digest_of(training(Pairs(20), 4))
    assert digest_of(training(Pairs(20), 4)) != digest_of(training(Pairs(21), 4))
    assert digest_of(evaluation(Pairs(20))) == digest_of(evaluation(Pairs(20)))
    assert digest_of(evaluation(Pairs(20))) != digest_of(evaluation(Shifted(20)))


def test_batch_samplers_of_ones_own_are_respected() -> None:
    loader = DataLoader(Pairs(10, noise=0.01), batch_sampler=BatchSampler(range(8), 3, drop_last=True))
    assert [len(batch) for batch in passed(streamed(training(loader, 64)), 0, 3)] == [3, 3, 3]
    assert len(streamed(training(loader, 64))) == 6
