"""Makes tasks of a folder with a model file and a ``data.toml``.

Legend: N samples, C classes, K values.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import tree
from diminuendo.engine.described.assemble import Assembled, assemble
from diminuendo.engine.described.spec import FILE, read
from diminuendo.engine.foreign import SUFFIXES, load_network, network_inputs
from diminuendo.engine.metrics import rmse
from diminuendo.engine.modules import evaluating
from diminuendo.engine.task import Data, Samples, Task, TaskError, logits_of

_CODE = "task.py"
_TRIED = 8
"""Samples on which it is seen what the network gives."""


def is_described(folder: Path | str) -> bool:
    """Whether a folder is a task without code: it has a ``data.toml`` and no ``task.py``."""
    folder = Path(folder)
    return (folder / FILE).is_file() and not (folder / _CODE).is_file()


def task(folder: Path | str) -> Task:
    """The task of a folder with one model file and a ``data.toml``; its source is left empty.

    Raises:
        TaskError: The model, the description or the data cannot be used, or do not fit together; names what, the value
            and the remedy.
    """
    folder = Path(folder).resolve()
    described = read(folder / FILE)
    path = _model(folder)
    found = assemble(described, folder, network_inputs(path))
    model = load_network(path)
    made = Task(
        model=model, train=found.train, evaluation=found.evaluation, augment=found.augment, name=_name(folder, found)
    )
    outputs = _outputs(model, found.evaluation)
    if described.task.kind == "regression":
        return _regression(made, outputs, found.width)
    return _classes(made, outputs, found)


def _name(folder: Path, found: Assembled) -> str:
    return found.name or folder.name


def _model(folder: Path) -> Path:
    """The one model file of a folder."""
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if len(found) != 1:
        said = ", ".join(path.name for path in found) or "none"
        raise TaskError(
            f"bundle: {folder} has a {FILE}, no {_CODE}, and the model files {said}; put one there that ends in "
            f"{' or '.join(SUFFIXES)}"
        )
    return found[0]


def _outputs(model: nn.Module, data: Data) -> Any:
    """What the network gives for a few samples."""
    if isinstance(data, Samples):
        inputs = data.head(_TRIED).inputs
    else:
        some: Any = data
        inputs = torch.stack([some[place][0] for place in range(min(_TRIED, len(some)))])
    try:
        with torch.no_grad(), evaluating(model):
            return tree.call(model, inputs)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(each.shape)) for each in tree.leaves(inputs))
        raise TaskError(
            f"data: the network cannot be run on inputs of shape {shapes} ({error}); give data of the shape it takes"
        ) from error


def _classes(made: Task, outputs: Any, found: Assembled) -> Task:
    """A classification, by cross-entropy and top1."""
    logits = logits_of(outputs)
    count = logits.shape[1] if logits.dim() > 1 else 1
    if logits.dim() < 2 or count < 2:
        raise TaskError(
            f"task.kind = 'classification': the network's outputs have shape {tuple(logits.shape)}, not one value for "
            'each of several classes; say kind = "regression", or give a network with (N, C) outputs'
        )
    if found.classes and len(found.classes) != count:
        raise TaskError(
            f"data: there are {len(found.classes)} classes ({', '.join(found.classes[:8])}) for a network with {count} "
            "outputs; give data of as many classes"
        )
    if found.highest >= count or found.lowest < 0:
        worst = found.lowest if found.lowest < 0 else found.highest
        raise TaskError(
            f"data: label {worst} is not a class of the network, which are 0 to {count - 1}; mend the labels or give "
            "the network that they are of"
        )
    return replace(made, logits=log_probabilities) if _are_probabilities(logits) else made


def _are_probabilities(logits: Tensor) -> bool:
    """Whether the network ends in a softmax."""
    return bool((logits >= 0).all()) and torch.allclose(
        logits.sum(dim=1), torch.ones(()).to(logits.dtype), rtol=0.0, atol=1e-3
    )


def log_probabilities(outputs: Any) -> Tensor:
    """(N, C) logarithms of the probabilities that a network gives: what its softmax was made of, up to a constant."""
    return logits_of(outputs).clamp(min=1e-12).log()


def _regression(made: Task, outputs: Any, width: int) -> Task:
    """A regression, by the squared error and its root."""
    values = values_of(outputs)
    if values.shape[2] != width:
        raise TaskError(
            f"data: there are {width} targets for each sample and the network gives {values.shape[2]} values; name as "
            "many columns in target"
        )
    return replace(made, loss=squared_error, logits=values_of, metric=rmse(of=values_of))


def values_of(outputs: Any) -> Tensor:
    """(N, 1, K) values of a regression, which are held against the original's as numbers."""
    found = logits_of(outputs) if not isinstance(outputs, Tensor) else outputs
    return found.reshape(len(found), 1, -1)


def squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """Mean squared error of the values against (N,) or (N, K) targets."""
    values = values_of(outputs).flatten(1)
    return functional.mse_loss(values, targets.reshape(values.shape).to(values.dtype))
