"""What a benchmark ran on, for its record."""

from __future__ import annotations

import platform
from pathlib import Path

UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""By which processors of one name differ: with bfloat16 a tuning may take a tenth of the time."""


def machine() -> str:
    """Processor, cores, the widest of its units for vectors and for bfloat16, and system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
        units = [unit for unit in UNITS if f" {unit}" in text]
        model = ", ".join([names[0], f"{len(names)} cores", *units]) if names else model
    return f"{model}; {platform.system()}, Python {platform.python_version()}"
