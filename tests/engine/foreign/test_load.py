"""Networks as files, imported: they compute the same, have the same layers, and can be tuned and copied."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from tests.engine.foreign.networks import Encoder, MobileNet, Patches, UNet, exported, mlp, quiet, seeded
from torch import Tensor, fx, nn

from diminuendo.engine import zoo
from diminuendo.engine.foreign import load_network, network_inputs
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.flow import wiring_of
from diminuendo.engine.task import TaskError


def digits() -> nn.Module:
    return zoo.task("digits").model


def _ids() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    return [torch.randint(0, 40, (3, 9), generator=generator), mask]


def _images(*shape: int) -> list[Tensor]:
    return [torch.randn(3, *shape, generator=torch.Generator().manual_seed(3))]


CASES = {
    "digits": (digits, _images(1, 8, 8)),
    "mobile": (MobileNet, _images(3, 16, 16)),
    "unet": (UNet, _images(1, 16, 16)),
    "encoder": (Encoder, _ids()),
    "mlp": (mlp, _images(6)),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "pt2") for name in CASES),
        ("encoder", "newer"),
        *((name, "older") for name in ("digits", "mobile", "unet", "mlp")),
    ],
)
def test_a_file_is_the_network_that_it_was_made_from(name: str, kind: str, tmp_path: Path) -> None:
    make, inputs = CASES[name]
    original = seeded(make) if name != "digits" else digits()
    network = load_network(exported(original, [each[:2] for each in inputs], tmp_path, kind))
    assert isinstance(network, fx.GraphModule)
    assert not network.training
    for count in (1, 3):
        some = [each[:count] for each in inputs]
        with torch.no_grad():
            torch.testing.assert_close(network(*some), original(*some), rtol=1e-4, atol=1e-5)
    wanted = discover(original, tuple(inputs)).layers
    found = discover(network, tuple(inputs)).layers
    assert [(spec.kind, spec.kernel, spec.groups, spec.in_channels, spec.out_channels) for spec in found] == [
        (spec.kind, spec.kernel, spec.groups, spec.in_channels, spec.out_channels) for spec in wanted
    ]
    if name != "mlp":  # its layers are called by their numbers, which are others where some are functions
        assert [spec.name for spec in found] == [spec.name for spec in wanted]
    assert wiring_of(network, [spec.name for spec in found], tuple(inputs))
    _check_tuning(network, inputs)


def _check_tuning(network: nn.Module, inputs: list[Tensor]) -> None:
    """A step changes every weight of a copy, and not the network itself."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    student = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student(*inputs).square().sum().backward()
    optimizer.step()
    after = student.state_dict()
    assert all(parameter.grad is not None for parameter in student.parameters())
    weights = [name for name, parameter in student.named_parameters() if parameter.dim() > 1]
    assert all(not torch.equal(after[name], before[name]) for name in weights)
    means = [name for name in after if name.endswith("running_mean")]
    assert all(not torch.equal(after[name], before[name]) for name in means)  # BatchNorm trains, too
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["pt2", "older"])
def test_a_batch_that_a_file_fixes_becomes_any(kind: str, tmp_path: Path) -> None:
    original = seeded(Patches)
    images = _images(1, 8, 8)[0]
    path = exported(original, [images[:1]], tmp_path, kind, fixed=True)
    network = load_network(path)
    assert network_inputs(path)[0].shape == (None, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(images), original(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(images[:1]), original(images[:1]), rtol=1e-4, atol=1e-5)


def test_inputs_are_told_by_name_shape_and_type(tmp_path: Path) -> None:
    program = exported(seeded(Encoder), [each[:2] for each in _ids()], tmp_path, "pt2")
    assert [str(each) for each in network_inputs(program)] == ["ids: (N, 9) int64", "mask: (N, 9) int64"]
    file = exported(seeded(mlp), [_images(6)[0]], tmp_path, "older")
    assert [str(each) for each in network_inputs(file)] == ["input_0: (N, 6) float32"]
    network = load_network(file)
    torch.testing.assert_close(network(input_0=_images(6)[0]), network(_images(6)[0]))


def test_tied_weights_stay_one(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(11, 6)
            self.middle = nn.Linear(6, 6)

        def forward(self, ids: Tensor) -> Tensor:
            found: Tensor = self.middle(self.embedding(ids)) @ self.embedding.weight.t()
            return found

    original = seeded(Tied)
    network = load_network(exported(original, [torch.tensor([[1, 2, 3], [4, 5, 6]])], tmp_path, "pt2"))
    assert sum(p.numel() for p in network.parameters()) == 11 * 6 + 6 * 6 + 6
    left = dict(discover(network, torch.tensor([[1, 2, 3]])).left_dense)
    assert "embedding" in left


def test_outputs_keep_their_structure(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
            return {"logits": self.a(x), "rest": (self.b(x), x + 1)}

    network = load_network(exported(seeded(Two), [torch.randn(2, 4)], tmp_path, "pt2"))
    outputs = network(torch.ones(5, 4))
    assert list(outputs) == ["logits", "rest"]
    assert outputs["logits"].shape == (5, 3)
    assert [tuple(each.shape) for each in outputs["rest"]] == [(5, 2), (5, 4)]


def test_a_view_of_the_export_does_for_images_in_another_order(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            logits: Tensor = self.fc(x.view(x.shape[0], -1))
            return logits

    original = seeded(Flat)
    network = load_network(exported(original, [torch.randn(2, 3, 4, 4)], tmp_path, "pt2"))
    images = _images(3, 4, 4)[0]
    expected = original(images)
    laid_out = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(laid_out(images.to(memory_format=torch.channels_last)), expected)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lstm(x)[0][:, -1]
        return found


class Mixing(nn.Module):
    """Tells the samples of a batch apart by their number, which is in the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([[2.0], [3.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(3, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.drop(self.fc(x))
        return found


class Nested(nn.Module):
    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return x["a"] + x["b"]


def test_programs_that_cannot_be_taken_are_refused_with_the_remedy(tmp_path: Path) -> None:
    fixed = exported(seeded(Recurrent), [torch.randn(1, 5, 3)], tmp_path, "pt2", fixed=True)
    with pytest.raises(TaskError, match=r"made for batches of 1 and has a recurrent layer.*torch.export.Dim"):
        load_network(fixed)
    mixing = exported(seeded(Mixing), [torch.randn(2, 3)], tmp_path, "pt2", fixed=True)
    with pytest.raises(TaskError, match=r"batches of 2.*torch.export.Dim"):
        load_network(mixing)
    training = exported(Training().train(), [torch.randn(2, 3)], tmp_path, "pt2")
    with pytest.raises(TaskError, match=r"training mode \(dropout\).*model.eval\(\)"):
        load_network(training)
    nested = torch.export.export(Nested(), ({"a": torch.ones(2, 1), "b": torch.ones(2, 1)},))
    torch.export.save(nested, tmp_path / "nested.pt2")
    with pytest.raises(TaskError, match=r"not plain tensors.*one tensor for each"):
        network_inputs(tmp_path / "nested.pt2")


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_files_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is not there"):
        load_network(tmp_path / name)
    for content in (b"", b"\x00\x01not a model" * 50):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TaskError, match=r"model: .*(no program|no ONNX file).*(write it with|export it again)"):
            load_network(tmp_path / name)


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"x")
    with pytest.raises(TaskError, match=r"no known kind.*\.onnx or \.pt2"):
        load_network(tmp_path / "model.h5")


def test_a_damaged_program_is_told_without_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = exported(seeded(mlp), [torch.randn(2, 6)], tmp_path, "pt2")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    capfd.readouterr()
    with pytest.raises(TaskError, match=r"torch.export.save"):
        load_network(path)
    assert capfd.readouterr() == ("", "")


def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported(seeded(mlp), [torch.randn(2, 6)], tmp_path, "older")
    for package in ("onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(TaskError, match=rf"imported with {package} .*pip install 'diminuendo\[export\]'"):
            load_network(path)


def test_what_is_traced_of_a_network_takes_any_batch(tmp_path: Path) -> None:
    original, inputs = seeded(Encoder), _ids()
    network = load_network(exported(original, [each[:2] for each in inputs], tmp_path, "pt2"))
    with quiet():
        traced = torch.jit.trace(network, tuple(each[:2] for each in inputs))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(*inputs), original(*inputs))
