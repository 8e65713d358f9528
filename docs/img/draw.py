"""Draws the pictures of the formats: ``python docs/img/draw.py`` writes one SVG for each beside itself.

A bar is a set of channels, as high as there are many; a shape between two bars is a stage, with its kernel above and
its weights below. Colours are such as can be read on light and on dark ground.
"""

from __future__ import annotations

from pathlib import Path

FULL, NARROW = 120, 44
"""Heights of all channels of a layer, and of those that a rank keeps."""

STAGE, BAR, MARGIN, MIDDLE = 130, 14, 40, 110
STYLE = (
    "text{font:14px ui-sans-serif,system-ui,sans-serif;fill:#57606a;text-anchor:middle}"
    ".name{font-weight:600}.bar{fill:#8b949e}.stage{fill:#4c8ed9;fill-opacity:.3;stroke:#4c8ed9}"
    ".lines{fill:none;stroke:#4c8ed9;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#9ea7b3}}"
)

Stage = tuple[str, str]
"""Kernel, and weights; a kernel that ends in * is of each channel by itself."""

FORMS: dict[str, tuple[list[str], list[Stage]]] = {
    "dense": (["I", "O"], [("k × k", "O I k k")]),
    "svd": (["I", "r", "O"], [("k × k", "r I k k"), ("1 × 1", "O r")]),
    "svd_input": (["I", "r", "O"], [("1 × 1", "r I"), ("k × k", "O r k k")]),
    "spatial": (["I", "r", "O"], [("k × 1", "r I k"), ("1 × k", "O r k")]),
    "tucker2": (["I", "r_in", "r_out", "O"], [("1 × 1", "r_in I"), ("k × k", "r_out r_in k k"), ("1 × 1", "O r_out")]),
    "cp": (["I", "r", "r", "O"], [("1 × 1", "r I"), ("k × k *", "r k k"), ("1 × 1", "O r")]),
    "tt": (
        ["I", "r1", "r2", "r3", "O"],
        [("1 × 1", "r1 I"), ("k × 1", "r2 r1 k"), ("1 × k", "r3 r2 k"), ("1 × 1", "O r3")],
    ),
    "zero": (["I", "O"], []),
}


def picture(channels: list[str], stages: list[Stage]) -> str:
    """One form as SVG."""
    heights = [FULL if name in "IO" else NARROW for name in channels]
    parts = []
    for index, (name, height) in enumerate(zip(channels, heights, strict=True)):
        x = MARGIN + index * (BAR + STAGE)
        parts.append(f'<rect class="bar" x="{x}" y="{MIDDLE - height / 2:g}" width="{BAR}" height="{height}" rx="3"/>')
        parts.append(f'<text class="name" x="{x + BAR / 2:g}" y="{MIDDLE + FULL / 2 + 22:g}">{name}</text>')
    for index, (kernel, weights) in enumerate(stages):
        left = MARGIN + index * (BAR + STAGE) + BAR + 6
        parts += _stage(left, left + STAGE - 12, heights[index], heights[index + 1], kernel, weights)
    width = 2 * MARGIN + (len(channels) - 1) * (BAR + STAGE) + BAR
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 220" width="{width}" height="220">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _stage(left: int, right: int, before: int, after: int, kernel: str, weights: str) -> list[str]:
    """A shape from the height of the channels before to that of those after; lines where each is by itself."""
    middle = (left + right) / 2
    texts = [
        f'<text x="{middle:g}" y="30">{kernel.removesuffix(" *")}{" of each" if kernel.endswith("*") else ""}</text>',
        f'<text x="{middle:g}" y="{MIDDLE + FULL / 2 + 22:g}">{weights}</text>',
    ]
    if kernel.endswith("*"):
        rows = [MIDDLE + (step - 1.5) * before / 4 for step in range(4)]
        return [f'<path class="lines" d="M{left} {y:g}H{right}"/>' for y in rows] + texts
    corners = [(left, -before), (right, -after), (right, after), (left, before)]
    points = " ".join(f"{x},{MIDDLE + height / 2:g}" for x, height in corners)
    return [f'<polygon class="stage" points="{points}"/>', *texts]


if __name__ == "__main__":
    for form, (names, chain) in FORMS.items():
        Path(__file__).with_name(f"{form}.svg").write_text(picture(names, chain), encoding="utf-8")
