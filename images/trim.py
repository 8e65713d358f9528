"""Take out of an image's virtual environment what nothing there uses. Run by install.sh, in the build stage.

    python trim.py ENVIRONMENT

What is removed is data and code of other purposes: dialects of databases that the store does not speak, lexers for
languages that no command colours, protos of services of a cloud. The Kubernetes client's 500 generated modules become
one zip of bytecode, from which Python imports them as well: 75 MB are 6.
"""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

UNUSED = [
    "google/api",
    "google/apps",
    "google/cloud",
    "google/gapic",
    "google/geo",
    "google/iam",
    "google/identity",
    "google/logging",
    "google/longrunning",
    "google/shopping",
    "google/type",
    "sqlalchemy/dialects/mssql",
    "sqlalchemy/dialects/mysql",
    "sqlalchemy/dialects/oracle",
    "sqlalchemy/testing",
    "kubernetes/aio",
]
LEXERS = {"__init__", "_mapping", "python", "special", "text"}
ZIPPED = ("kubernetes",)


def main(environment: Path) -> None:
    """Trim the environment in place."""
    site = next(environment.glob("lib/python3.*/site-packages"))
    for name in UNUSED:
        shutil.rmtree(site / name, ignore_errors=True)
    for lexer in (site / "pygments" / "lexers").glob("*.py"):
        if lexer.stem not in LEXERS:
            lexer.unlink()
    for name in ZIPPED:
        if (site / name).is_dir():
            _zip(site, name)
    strip = shutil.which("strip")
    if strip is not None:
        # What auditwheel has put into *.libs was rewritten by patchelf, which strip does not understand.
        libraries = [path for path in site.rglob("*.so") if not path.parent.name.endswith(".libs")]
        subprocess.run([strip, "--strip-unneeded", *libraries], check=True)


def _zip(site: Path, name: str) -> None:
    """Put a package of pure Python into a zip beside it that is on the path, as bytecode without docstrings."""
    compileall.compile_dir(site / name, quiet=1, legacy=True, optimize=2)
    archive = site / f"{name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted((site / name).rglob("*")):
            if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__":
                file.write(path, path.relative_to(site))
    shutil.rmtree(site / name)
    (site / f"{name}.pth").write_text(f"{archive.name}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
