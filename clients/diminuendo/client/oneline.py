"""Text that came from elsewhere, made safe to write as one line."""

from __future__ import annotations


def one_line(text: str) -> str:
    """The text with every run of white space and of control characters (escape codes too) as one space."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
