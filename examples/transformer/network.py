"""The network: a small transformer with attention of its own.

Legend: N samples, T tokens, P values of a token, H heads, D channels of a head.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        """Queries, keys, values and outputs are as wide as the tokens."""
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(N, T, H * D), and (N, 1, 1, T) which tokens are there -> (N, T, H * D)."""
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each on what LayerNorm leaves."""

    def __init__(self, width: int, heads: int) -> None:
        """The perceptron is four times as wide."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(N, T, width) -> the same shape."""
        x = x + self.attention(self.norm1(x), seen)
        return x + self.perceptron(self.norm2(x))


class Reader(nn.Module):
    """Tells what a digit is from those of its rows that are there."""

    def __init__(self, classes: int = 10, width: int = 48, heads: int = 4, blocks: int = 2) -> None:
        """Untrained."""
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.places = nn.Embedding(8, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """(N, T, P) rows and (N, T) which of them are there -> (N, classes) logits."""
        x = self.embed(rows) + self.places.weight[: rows.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        there = mask.to(x.dtype)[:, :, None]
        logits: Tensor = self.classify(self.norm((x * there).sum(dim=1) / there.sum(dim=1)))
        return logits
