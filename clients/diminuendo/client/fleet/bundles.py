"""The bundles of a fleet's models: all packed and checked before the first is sent, each stored once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diminuendo.client.bundle import Packed, pack
from diminuendo.client.errors import BundleError, Violation
from diminuendo.client.types import Artifact


@dataclass(frozen=True, slots=True)
class PackedBundles:
    """Bundles that were packed once to see what they are. Their archives are not kept: many may not fit on a disk.

    Attributes:
        by_folder: What each folder was packed to.
    """

    by_folder: Mapping[Path, Packed]

    def source(self, folder: Path) -> str:
        """What a folder's bundle is called as a source."""
        return f"bundle:{self.by_folder[folder].sha256}"

    def distinct(self) -> list[tuple[Path, Packed]]:
        """One folder for each content, in the order given."""
        seen: dict[str, tuple[Path, Packed]] = {}
        for folder, packed in self.by_folder.items():
            seen.setdefault(packed.sha256, (folder, packed))
        return list(seen.values())


def pack_all(folders: Iterable[Path]) -> PackedBundles:
    """Pack every folder once, and say all that is wrong.

    Raises:
        BundleError: Some are no bundles; the message has every one of them.
        OSError: A file cannot be read.
    """
    found: dict[Path, Packed] = {}
    wrong: list[Violation] = []
    with tempfile.TemporaryDirectory(prefix="diminuendo-") as scratch:
        for folder in dict.fromkeys(folders):
            try:
                found[folder] = pack(folder, Path(scratch) / "bundle.tar")
            except BundleError as error:
                wrong.append(Violation("bundle", error.message.removeprefix("bundle: ")))
    if wrong:
        raise BundleError("; ".join(f"{each.field}: {each.description}" for each in wrong), violations=wrong)
    return PackedBundles(found)


def send_all(
    bundles: PackedBundles,
    held: Callable[[Artifact], bool],
    send: Callable[[Path], Artifact],
    *,
    on_sent: Callable[[Path, int], None] = lambda folder, size: None,
) -> None:
    """Store what the server lacks.

    Args:
        bundles: What was packed.
        held: Whether the server has this content.
        send: Stores a file.
        on_sent: Told of each folder that was sent, with the bytes of its archive.

    Raises:
        BundleError: A folder has changed since it was packed.
    """
    for folder, packed in bundles.distinct():
        if held(Artifact(packed.sha256, packed.size_bytes)):
            continue
        with tempfile.TemporaryDirectory(prefix="diminuendo-") as scratch:
            archive = Path(scratch) / "bundle.tar"
            pack_again(folder, packed, archive)
            send(archive)
        on_sent(folder, packed.size_bytes)


def pack_again(folder: Path, packed: Packed, archive: Path) -> None:
    """Write the archive of a folder that was packed before; BundleError where it has changed since."""
    if pack(folder, archive).sha256 != packed.sha256:
        raise BundleError.of("bundle", f"{folder} changed while the fleet was submitted; submit it again")
