"""Networks as people write them: skips, two towers, experts, transformers."""

from __future__ import annotations

import torch
from tests.engine.kinds.entry import Entry, normal, tokens
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """Down, up, and past: an encoder, a decoder, and skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.block(3, 8), self.block(8, 16)
        self.pool, self.middle = nn.MaxPool2d(2), self.block(16, 16)
        self.up1, self.up2 = nn.ConvTranspose2d(16, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.merge1, self.merge2, self.head = self.block(32, 16), self.block(16, 8), nn.Conv2d(8, 2, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(self.pool(one))
        y = self.up1(self.middle(self.pool(two)))
        y = self.up2(self.merge1(torch.cat([two, y], dim=1)))
        return self.head(self.merge2(torch.cat([one, y], dim=1)))  # type: ignore[no-any-return]


class Siamese(nn.Module):
    """One tower for two inputs of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.project = nn.Linear(8, 6)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return functional.pairwise_distance(self.project(self.tower(left)), self.project(self.tower(right)))


class Experts(nn.Module):
    """A mixture of experts: each token goes to the two that the router likes best."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        nn.init.constant_(self.router.bias[3], -100.0)  # no one's favourite
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(4))
        self.aside = nn.Sequential(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        weights, picked = self.router(x).softmax(dim=-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            mask = picked == index
            rows = mask.any(dim=-1)
            out[rows] = out[rows] + expert(x[rows]) * (weights * mask).sum(dim=-1)[rows].unsqueeze(-1)
        return out


class Block(nn.Module):
    """A pre-norm transformer block whose queries, keys and values are one layer."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16) * 0.02)
        self.blocks = nn.Sequential(*(Block(16, 2, causal=False) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])  # type: ignore[no-any-return]


class Gpt(nn.Module):
    """A small language model with a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(30, 16), nn.Embedding(12, 16)
        self.blocks = nn.ModuleList(Block(16, 2, causal=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 30, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token(x) + self.position(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


BLOCKS = tuple(f"blocks.{i}.{name}" for i in range(2) for name in ("qkv", "out", "mlp.0", "mlp.2"))

ENTRIES = (
    Entry(
        "U-Net",
        UNet,
        normal(3, 8, 8),
        ("down1.0", "down2.0", "middle.0", "up1", "up2", "merge1.0", "merge2.0", "head"),
    ),
    Entry(
        "Siamese, two sizes",
        Siamese,
        lambda: (normal(3, 8, 8)(), normal(3, 6, 5)()),
        ("tower.0", "project"),
    ),
    Entry(
        "mixture of experts",
        Experts,
        normal(8),
        ("router", *(f"experts.{index}.{place}" for index in range(3) for place in (0, 2))),
        {r"experts\.3\.\d": "called with an empty tensor", r"aside\.0": "not called"},
        routed=True,
    ),
    Entry("ViT, fused qkv", ViT, normal(3, 8, 8), ("patch", *BLOCKS, "head"), {"": "no format for ViT"}),
    Entry("GPT", Gpt, tokens(7, 30), (*BLOCKS, "head"), {"token|position": "no format for Embedding"}),
)
