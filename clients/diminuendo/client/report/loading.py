"""Code that loads a result, for its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code to copy.

    Attributes:
        needs: What to install for it.
    """

    title: str
    needs: str
    code: str


def snippets(source: str, files: Mapping[str, str]) -> list[Snippet]:
    """How to load what a result folder has.

    Args:
        source: Of the plan: ``zoo:digits`` is built by the library, others by their owner.
        files: Exports that are there, by form.
    """
    found = [_torch(source)]
    for form, file in files.items():
        kind = form.partition(":")[0]
        if kind in _OTHERS:
            title, needs, code = _OTHERS[kind]
            found.append(Snippet(f"{title}: {file}", needs, code.replace("FILE", repr(file))))
    return found


def _torch(source: str) -> Snippet:
    if source.startswith("zoo:"):
        code = _LOAD.replace("MODEL", "")
    else:
        code = _LOAD.replace("MODEL", ", my_network").replace(
            "folder =", "my_network = ...  # the original architecture, with any weights\nfolder ="
        )
    return Snippet("PyTorch, as the module that it was", "pip install 'diminuendo[engine]'", code)


_LOAD = """\
from diminuendo.engine import load

folder = "."  # where model.safetensors and plan.json are
network = load(folderMODEL)  # in eval mode
"""

_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession(FILE)
names = [each.name for each in session.get_inputs()]
# one array for each input, with the batch as first dimension
outputs = session.run(None, dict(zip(names, [my_inputs])))
"""

_PT2 = """\
import torch

network = torch.export.load(FILE).module()
outputs = network(my_inputs)
"""

_SCRIPT = """\
import torch

network = torch.jit.load(FILE)
outputs = network(my_inputs)
"""

_OTHERS = {
    "onnx": ("ONNX Runtime", "pip install onnxruntime", _ONNX),
    "pt2": ("torch.export", "pip install torch", _PT2),
    "torchscript": ("TorchScript", "pip install torch", _SCRIPT),
}
"""Title, what to install, and code of each form; half-precision weights are loaded as the first snippet says."""
