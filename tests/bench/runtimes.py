"""Networks as they are put to use: PyTorch in its faster layout, and ONNX Runtime."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from diminuendo.engine.stopwatch import HostClock, Race, race, threads_set
from diminuendo.engine.workbench import fast

Forward = Callable[[], Any]
CHECK_BATCH, TOLERANCE = 4, 1e-3
"""An exported network is compared on so many samples; largest difference, relative to the largest output."""
OPSET = 20


class ExportError(RuntimeError):
    """Raised when an exported network computes something else than the network."""


@dataclass(frozen=True)
class Speed:
    """Two networks side by side.

    Attributes:
        original_ms: Median of a forward of the batch.
        ratio: How many times as fast the compressed one is.
        spread: Of the ratio from round to round, 0.1 is 10 %.
        how: What PyTorch ran in, original and compressed.
    """

    runtime: str
    batch: int
    threads: int
    original_ms: float
    compressed_ms: float
    ratio: float
    spread: float
    how: tuple[str, ...] = ()


def in_pytorch(original: nn.Module, compressed: nn.Module, inputs: Tensor, threads: int, *, rounds: int = 20) -> Speed:
    """Eager forwards, each network in the memory layout in which it is the faster.

    Args:
        original: Left as it is.
        compressed: Left as it is.
        inputs: (N, ...) of one batch.
        threads: Torch's.
        rounds: See `race`.
    """
    with threads_set(threads), torch.inference_mode():
        ways = [_layouts(network, inputs) for network in (original, compressed)]
        names = [min(own, key=lambda name: times[name]) for own, times in zip(ways, map(_ms, ways), strict=True)]
        found = race([own[name] for own, name in zip(ways, names, strict=True)], HostClock(), rounds=rounds)
    return _speed("pytorch", inputs, threads, found, tuple(names))


def _layouts(network: nn.Module, inputs: Tensor) -> dict[str, Forward]:
    """Forwards by layout; images alone have two."""
    plain, own = copy.deepcopy(network).eval(), inputs.contiguous()
    ways: dict[str, Forward] = {"contiguous": lambda: plain(own)}
    if inputs.dim() == 4:
        last, given = fast(copy.deepcopy(network).eval(), inputs), inputs.contiguous(memory_format=torch.channels_last)
        ways["channels_last"] = lambda: last(given)
    return ways


def _ms(ways: dict[str, Forward]) -> dict[str, float]:
    return dict(zip(ways, race(list(ways.values()), HostClock(), rounds=5).ms, strict=True))


class Exported:
    """A network in an ONNX file, with a dynamic batch."""

    def __init__(self, network: nn.Module, inputs: Tensor, path: Path) -> None:
        """Export a network.

        Args:
            network: Left as it is.
            inputs: (N, ...) with N at least `CHECK_BATCH`; on the CPU.
            path: Where the file comes.

        Raises:
            ExportError: ONNX Runtime's outputs are not the network's.
        """
        self._path = path
        network = copy.deepcopy(network).eval()
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.contiguous()
        sample = inputs[:CHECK_BATCH].contiguous()
        with _quiet():
            torch.onnx.export(
                network,
                (sample,),
                path,
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        self.apart = self.check(network, sample)

    def check(self, network: nn.Module, sample: Tensor) -> float:
        """How far the file's outputs are from a network's, relative to the largest; ExportError when too far."""
        with torch.no_grad():
            expected = network(sample)
        found = torch.as_tensor(self.forward(sample, 1)())
        apart = float((found - expected).abs().max() / expected.abs().max())
        if not apart <= TOLERANCE:
            raise ExportError(f"{self._path}: outputs differ by {apart:.2e} of the largest")
        return apart

    def forward(self, inputs: Tensor, threads: int) -> Forward:
        """A forward of one batch in ONNX Runtime on the CPU."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        given = {"input": inputs.contiguous().numpy()}
        return lambda: session.run(None, given)[0]


def in_onnx_runtime(
    original: Exported, compressed: Exported, inputs: Tensor, threads: int, *, rounds: int = 20
) -> Speed:
    """Forwards of exported networks, see `in_pytorch`."""
    forwards = [network.forward(inputs, threads) for network in (original, compressed)]
    found = race(forwards, HostClock(), rounds=rounds)
    return _speed("onnxruntime", inputs, threads, found, ())


def _speed(runtime: str, inputs: Tensor, threads: int, found: Race, how: tuple[str, ...]) -> Speed:
    return Speed(runtime, len(inputs), threads, found.ms[0], found.ms[1], found.ratios[1], found.spread, how)


def speeds(
    original: nn.Module,
    compressed: nn.Module,
    inputs: Tensor,
    *,
    batches: Sequence[int],
    threads: Sequence[int],
    rounds: int = 20,
) -> Iterator[Speed]:
    """Both runtimes at every batch size and number of threads.

    Args:
        original: On the CPU.
        compressed: On the CPU.
        inputs: (N, ...) with N at least the largest batch and `CHECK_BATCH`.
        batches: Sizes.
        threads: Numbers of threads.
        rounds: See `race`.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [
            Exported(network, inputs, Path(folder) / f"{name}.onnx")
            for name, network in (("original", original), ("compressed", compressed))
        ]
        for count in threads:
            for batch in batches:
                yield in_pytorch(original, compressed, inputs[:batch], count, rounds=rounds)
                yield in_onnx_runtime(files[0], files[1], inputs[:batch], count, rounds=rounds)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that are not there and on itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
