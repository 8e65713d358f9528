"""Scenes to segment: a handwritten digit before a piece of a photograph. Both come with scikit-learn."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

CLASSES = 11
"""0 is the background, 1 + k is the stroke of a k."""

SIDE, DIGIT = 16, 12
EVALUATION = 800


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Item k is always the same scene: ((1, 16, 16) uint8 image, (16, 16) int64 classes)."""

    def __init__(self, *, evaluation: bool) -> None:
        """Scenes to train with, or unseen ones: of other digits, before the other half of the photograph."""
        pixels, classes = load_digits(return_X_y=True)
        order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
        chosen = order[:EVALUATION] if evaluation else order[EVALUATION:]
        small = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8)[chosen] / 16
        self._digits = functional.interpolate(small, size=(DIGIT, DIGIT), mode="bilinear")[:, 0]
        self._classes = torch.from_numpy(classes)[chosen]
        photo = torch.tensor(load_sample_image("china.jpg")).to(torch.float32).mean(dim=2) / 255
        middle = photo.shape[1] // 2
        self._photo = photo[:, :middle] if evaluation else photo[:, middle:]
        self._seed = 1 if evaluation else 2

    def __len__(self) -> int:
        """One scene for each digit."""
        return len(self._digits)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        """Scene k."""
        generator = torch.Generator().manual_seed(1_000_000 * self._seed + k)
        top, left = (int(n) for n in torch.randint(0, SIDE - DIGIT + 1, (2,), generator=generator))
        down = int(torch.randint(0, self._photo.shape[0] - SIDE, (), generator=generator))
        right = int(torch.randint(0, self._photo.shape[1] - SIDE, (), generator=generator))
        ink = torch.zeros(SIDE, SIDE)
        ink[top : top + DIGIT, left : left + DIGIT] = self._digits[k]
        behind = 0.6 * self._photo[down : down + SIDE, right : right + SIDE]
        image = behind * (1 - ink) + ink
        classes = torch.where(ink > 0.5, 1 + self._classes[k], 0)
        return (255 * image).round().to(torch.uint8).unsqueeze(0), classes
