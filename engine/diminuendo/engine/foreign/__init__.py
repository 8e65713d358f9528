"""Networks that come as a file, without their code: ONNX and torch.export programs as nn.Modules that can be tuned."""

from __future__ import annotations

from diminuendo.engine.foreign.inputs import NetworkInput
from diminuendo.engine.foreign.load import SUFFIXES, load_network, network_inputs

__all__ = ["SUFFIXES", "NetworkInput", "load_network", "network_inputs"]
