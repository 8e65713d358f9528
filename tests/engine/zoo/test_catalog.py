from __future__ import annotations

import subprocess
import sys

import pytest

from diminuendo.engine.zoo.catalog import CATALOG, Source, UnknownNetworkError, find, training_command


def test_the_catalog_comes_without_torch() -> None:
    code = "import sys, diminuendo.engine.zoo.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_only_digits_comes_with_weights() -> None:
    assert [entry.name for entry in CATALOG if entry.bundled] == ["digits"]


@pytest.mark.parametrize(
    ("text", "name", "classes", "canonical"),
    [
        ("resnet18", "resnet18", 100, "zoo:resnet18"),
        ("resnet18?classes=100", "resnet18", 100, "zoo:resnet18"),
        ("resnet18?classes=16", "resnet18", 16, "zoo:resnet18?classes=16"),
        ("resnet18?classes=016", "resnet18", 16, "zoo:resnet18?classes=16"),
        ("resnet18_imagenet?classes=2", "resnet18_imagenet", 2, "zoo:resnet18_imagenet?classes=2"),
        ("digits?classes=10", "digits", 10, "zoo:digits"),
    ],
)
def test_sources_have_one_canonical_text(text: str, name: str, classes: int, canonical: str) -> None:
    source = Source.parse(text)
    assert (source.entry.name, source.classes, str(source)) == (name, classes, canonical)
    assert Source.parse(source.text) == source
    assert find(text) is source.entry


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("digts", "the zoo has no network 'digts'; did you mean 'digits'?"),
        ("resnet19?classes=10", "the zoo has no network 'resnet19'; did you mean 'resnet18'?"),
        ("", "the zoo has no network ''; known networks: digits, resnet18, resnet50, vgg19"),
        (
            "resnet18?classes=1",
            "classes: '1' of resnet18 is no number of classes; give a whole number from 2 to 100000",
        ),
        ("resnet18?classes=100001", "classes: '100001' of resnet18 is no number"),
        ("resnet18?classes=", "classes: '' of resnet18 is no number"),
        ("resnet18?classes=-5", "classes: '-5' of resnet18 is no number"),
        ("resnet18?classes=1_0", "classes: '1_0' of resnet18 is no number"),
        ("resnet18?classes=ten", "as in resnet18?classes=16"),
        ("resnet18?", "option '' of resnet18 is unknown; the one option is classes"),
        ("resnet18?width=2", "option 'width' of resnet18 is unknown; the one option is classes"),
        ("digits?classes=5", "classes: '5' does not fit digits, whose data has 10 classes; leave it out"),
    ],
)
def test_what_the_zoo_does_not_have_is_named_with_a_remedy(text: str, says: str) -> None:
    with pytest.raises(UnknownNetworkError) as caught:
        find(text)
    assert says in str(caught.value)


def test_the_training_command_can_be_pasted_into_a_shell() -> None:
    start = "python -m diminuendo.engine.zoo.train"
    assert training_command(Source.parse("vgg19")) == f"{start} vgg19 --data DIR"
    assert training_command(Source.parse("vgg19?classes=10"), "d") == f"{start} 'vgg19?classes=10' --data d"
    assert training_command(Source.parse("digits")) == f"{start} digits"
