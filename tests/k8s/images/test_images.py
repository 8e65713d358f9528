"""What is in the images, and what is not. `make images` builds them first."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.k8s.images.containers import LIMITS, available, has_image, podman

pytestmark = pytest.mark.k8s

VERSION = "0.1.0"
CONTROL, ENGINE = (
    os.environ.get(f"IMAGE_{name}", f"localhost/diminuendo-{name.lower()}:{VERSION}") for name in ("CONTROL", "ENGINE")
)
PROBE = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n) is not None])"


def needed(image: str) -> str:
    """The image, when it is here; the test is skipped otherwise."""
    if reason := available():
        pytest.skip(reason)
    if not has_image(image):
        pytest.skip(f"{image} is not here: make images")
    return image


def run(image: str, *arguments: str, entrypoint: str = "diminuendo", network: str = "none") -> str:
    return podman(
        "run", "--rm", *LIMITS, "--network", network, "--read-only", "--tmpfs", "/tmp", "--cap-drop=all",
        "--security-opt=no-new-privileges", "--entrypoint", entrypoint, image, *arguments,
    )  # fmt: skip


def test_control_is_small_and_has_what_a_conductor_needs() -> None:
    image = needed(CONTROL)
    size = int(podman("image", "inspect", "--format", "{{.Size}}", image))
    assert size < 250e6, f"{size / 1e6:.0f} MB"
    modules = ["torch", "ray", "numpy", "pip", "setuptools", "grpc", "sqlalchemy", "psycopg", "obstore", "kubernetes"]
    found = run(image, "-c", PROBE, *modules, entrypoint="/opt/diminuendo/bin/python").split()
    assert found == ["grpc", "sqlalchemy", "psycopg", "obstore", "kubernetes"]
    assert run(image, "version") == VERSION


@pytest.mark.parametrize("image", [CONTROL, ENGINE], ids=["control", "engine"])
def test_nothing_runs_as_root_and_nothing_compiles(image: str) -> None:
    found = json.loads(podman("image", "inspect", needed(image)))[0]["Config"]
    assert found["User"] == "65532:65532"
    assert found["Entrypoint"] == ["diminuendo"]
    script = "id -u; command -v gcc cc clang make pip pip3 || true; touch /opt/x 2>/dev/null && echo writable || true"
    assert run(image, "-c", script, entrypoint="/bin/sh").split() == ["65532"]


def test_the_engine_has_torch_and_ray_as_pinned() -> None:
    image = needed(ENGINE)
    code = "import torch, ray; print(torch.__version__.split('+')[0], ray.__version__)"
    torch, ray = run(image, "-c", code, entrypoint="/opt/diminuendo/bin/python").split()
    pins = Path("constraints.txt").read_text().splitlines()
    assert f"torch=={torch}" in pins
    assert f"ray=={ray}" in pins


def test_the_engine_compresses(tmp_path: Path) -> None:
    """Its parts fit together: a small job runs in it, as an unknown user, without a network."""
    image = needed(ENGINE)
    line = "compress zoo:digits --effort quick --stage 1 --budget epochs=12 --delta 5 --out /tmp/result"
    assert "result: /tmp/result" in run(image, *line.split())
