"""The network: a small transformer with attention of its own.

Legend: N sentences, T tokens, H heads, D channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention of several heads, to what came before."""

    def __init__(self, width: int, heads: int) -> None:
        """Queries, keys, values and outputs are as wide as the tokens."""
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(N, T, H * D), and (N, 1, T, T) which token sees which -> (N, T, H * D)."""
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
    """Predicts the character at each place from the ones before it."""

    def __init__(
        self, vocabulary: int = 96, length: int = 48, width: int = 48, heads: int = 4, blocks: int = 2
    ) -> None:
        """Untrained."""
        super().__init__()
        self.characters = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(N, T) tokens and (N, T) which of them are there -> (N, T, vocabulary) logits."""
        length = tokens.shape[1]
        x = self.characters(tokens) + self.places.weight[:length]
        before = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        seen = before & mask[:, None, None, :]  # (N, 1, T, T); the first token is always there
        for block in self.blocks:
            x = block(x, seen)
        logits: Tensor = self.head(self.norm(x))
        return logits
