from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from diminuendo.engine.exports import forms
from diminuendo.engine.exports.forms import Exported, Form, FormError, check_installed, opset_of, parse, parse_all


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("onnx", "model.onnx"),
        ("onnx:fp32", "model.onnx"),
        ("onnx:fp16", "model.fp16.onnx"),
        ("pt2:bf16", "model.bf16.pt2"),
        ("torchscript", "model.ts"),
        ("torchscript:fp16", "model.fp16.ts"),
        ("safetensors:fp16", "model.fp16.safetensors"),
    ],
)
def test_forms_name_their_files(text: str, file: str) -> None:
    assert parse(text).file == file
    assert str(parse(text)) == text.removesuffix(":fp32")
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("onxn", "'onxn' is no form of export; did you mean 'onnx'?"),
        ("onnx:f16", "did you mean 'onnx:fp16'?"),
        ("onnx:", "'onnx:' is no form"),
        ("tflite9", "give FORMAT or FORMAT:DTYPE"),
        ("", "'' is no form"),
        ("safetensors", "is what every result has as model.safetensors"),
    ],
)
def test_what_is_no_form_is_refused_with_what_is_legal(text: str, says: str) -> None:
    with pytest.raises(FormError) as caught:
        parse(text)
    assert says in str(caught.value)


def test_a_form_is_given_once() -> None:
    assert parse_all(["onnx", "onnx:fp16"]) == (Form("onnx"), Form("onnx", "fp16"))
    with pytest.raises(FormError, match="'onnx' is given twice"):
        parse_all(["onnx", "onnx:fp32"])


def test_convolutions_are_defined_for_bfloat16_in_opset_22_only() -> None:
    assert [opset_of(Form("onnx", dtype), None) for dtype in forms.DTYPES] == [18, 18, 22]
    assert opset_of(Form("onnx", "bf16"), 20) == 20


def test_a_package_that_is_not_there_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed([Form("onnx"), Form("pt2")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    check_installed([Form("pt2"), Form("torchscript")])
    with pytest.raises(FormError, match=r"'onnx:fp16' needs onnxscript; pip install 'diminuendo\[export\]'"):
        check_installed([Form("onnx", "fp16")])


def test_the_certificate_tells_of_an_error_only_where_there_is_one() -> None:
    assert "error" not in Exported("onnx", "model.onnx", 5).entry()
    assert Exported("onnx", error="no").entry()["error"] == "no"
    assert "form" not in Exported("onnx", error="no").entry()


def test_forms_come_without_torch() -> None:
    code = "import sys, diminuendo.engine.exports.forms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
