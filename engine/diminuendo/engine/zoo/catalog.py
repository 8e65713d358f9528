"""Names of the zoo's networks, for those who must not import torch."""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass

LEAST_CLASSES, MOST_CLASSES = 2, 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: As in ``zoo:NAME``.
        title: One line for people.
        classes: Number of classes when the source names none.
        input_shape: (C, H, W) of one sample.
        params: Trainable elements at `classes`.
        bundled: Trained weights and data come with the package; the number of classes is theirs.
        data: Data that the zoo can load for it: ``cifar``, or empty when there is none but the package's own.
    """

    name: str
    title: str
    classes: int
    input_shape: tuple[int, int, int]
    params: int
    bundled: bool = False
    data: str = ""


_CIFAR = (3, 32, 32)

CATALOG: tuple[Entry, ...] = (
    Entry(
        "digits",
        "residual network on scikit-learn's handwritten digits (8x8)",
        classes=10,
        input_shape=(1, 8, 8),
        params=222_570,
        bundled=True,
    ),
    Entry("resnet18", "ResNet18 for 32x32 images", 100, _CIFAR, 11_220_132, data="cifar"),
    Entry("resnet50", "ResNet50 for 32x32 images", 100, _CIFAR, 23_705_252, data="cifar"),
    Entry("vgg19", "VGG19 with BatchNorm for 32x32 images", 100, _CIFAR, 20_086_692, data="cifar"),
    Entry("densenet121", "DenseNet121 for 32x32 images", 100, _CIFAR, 7_048_548, data="cifar"),
    Entry("googlenet", "GoogLeNet with BatchNorm for 32x32 images", 100, _CIFAR, 6_258_500, data="cifar"),
    Entry("mobilenet_v1", "MobileNetV1 for 32x32 images", 100, _CIFAR, 3_309_476, data="cifar"),
    Entry("mobilenet_v2", "MobileNetV2 for 32x32 images", 100, _CIFAR, 2_412_212, data="cifar"),
    Entry("resnet18_imagenet", "ResNet18 for 224x224 images", 1000, (3, 224, 224), 11_689_512),
)


class UnknownNetworkError(LookupError):
    """A name or an option that the zoo does not have; the message suggests what it has."""


@dataclass(frozen=True, slots=True)
class Source:
    """A network of the zoo at a number of classes.

    Its text is ``NAME`` or ``NAME?classes=N``; as a source of a task it stands behind ``zoo:``.

    Attributes:
        entry: The network.
        classes: The number of classes, which may be the entry's own.
    """

    entry: Entry
    classes: int

    @classmethod
    def parse(cls, text: str) -> Source:
        """The source of what stands behind ``zoo:``.

        Raises:
            UnknownNetworkError: There is no such network, no such option, or its value is not usable.
        """
        name, question, options = text.partition("?")
        entry = _entry(name)
        return cls(entry, _classes(entry, options) if question else entry.classes)

    @property
    def text(self) -> str:
        """What stands behind ``zoo:``, the same for the same network: classes only where they are not the usual."""
        name = self.entry.name
        return name if self.classes == self.entry.classes else f"{name}?classes={self.classes}"

    def __str__(self) -> str:
        """``zoo:NAME`` or ``zoo:NAME?classes=N``."""
        return f"zoo:{self.text}"


def find(text: str) -> Entry:
    """The entry of a name, with or without options.

    Raises:
        UnknownNetworkError: As `Source.parse`.
    """
    return Source.parse(text).entry


def training_command(source: Source, data: str = "DIR") -> str:
    """The command that trains a network of the zoo."""
    return shlex.join(
        ["python", "-m", "diminuendo.engine.zoo.train", source.text, *(["--data", data] if source.entry.data else [])]
    )


def _entry(name: str) -> Entry:
    names = [entry.name for entry in CATALOG]
    if name in names:
        return CATALOG[names.index(name)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known networks: {', '.join(names)}"
    raise UnknownNetworkError(f"the zoo has no network {name!r}; {hint}")


def _classes(entry: Entry, options: str) -> int:
    """N of ``classes=N``."""
    key, _, value = options.partition("=")
    if key != "classes":
        raise UnknownNetworkError(
            f"option {key!r} of {entry.name} is unknown; the one option is classes, as in {entry.name}?classes=16"
        )
    known = value.isascii() and value.isdecimal() and len(value) < 10  # int() would take "1_0" and "٣"
    classes = int(value) if known else 0
    if not LEAST_CLASSES <= classes <= MOST_CLASSES:
        raise UnknownNetworkError(
            f"classes: {value!r} of {entry.name} is no number of classes; give a whole number from {LEAST_CLASSES} "
            f"to {MOST_CLASSES}, as in {entry.name}?classes=16"
        )
    if entry.bundled and classes != entry.classes:
        raise UnknownNetworkError(
            f"classes: {value!r} does not fit {entry.name}, whose data has {entry.classes} classes; leave it out"
        )
    return classes
