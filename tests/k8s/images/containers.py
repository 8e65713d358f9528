"""Runs the pods of a manifest by hand, as a kubelet would, with podman."""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PODMAN = ("podman", "--runtime", "runc")
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=2048:2048")
"""Lower than podman's own, which a machine that is a container itself may not have to give."""


def available() -> str:
    """Why containers cannot be run here, or nothing."""
    if shutil.which("podman") is None or shutil.which("runc") is None:
        return "podman and runc are not here: apt-get install -y podman runc"
    return ""


def podman(*arguments: str, timeout_s: float = 120, check: bool = True) -> str:
    """What podman answers."""
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"podman {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def has_image(name: str) -> bool:
    """Whether an image is here."""
    return not available() and bool(podman("images", "--quiet", name))


@dataclass(frozen=True)
class Objects:
    """The objects of a manifest that a pod refers to.

    Attributes:
        claims: Folder of each persistent volume claim.
    """

    manifests: Sequence[Mapping[str, Any]]
    claims: Mapping[str, Path] = field(default_factory=dict)

    def data(self, kind: str, name: str) -> dict[str, str]:
        """The texts of a ConfigMap or a Secret."""
        for one in self.manifests:
            if one["kind"] == kind and one["metadata"]["name"] == name:
                given: dict[str, str] = one.get("data", {})
                if kind == "Secret":
                    given = {key: base64.b64decode(text).decode() for key, text in given.items()}
                return {**given, **one.get("stringData", {})}
        raise LookupError(f"the manifest has no {kind} {name}")


class Pod:
    """One container of a pod template, run by podman; a context manager that leaves nothing behind."""

    def __init__(
        self, template: Mapping[str, Any], objects: Objects, *, folder: Path, ports: Mapping[int, int]
    ) -> None:
        """A pod of this template.

        Args:
            template: A pod's spec, with one container.
            folder: Where the files of ConfigMaps and Secrets are put.
            ports: Port of this machine for each port of the container.
        """
        self.name = f"diminuendo-test-{uuid.uuid4().hex[:12]}"
        (self._container,) = template["containers"]
        self._template, self._objects, self._folder, self._ports = template, objects, folder, ports

    def __enter__(self) -> Pod:
        """Start it."""
        podman("run", "--detach", "--name", self.name, *self._flags(), self._container["image"], *self._arguments())
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it, however it is."""
        podman("rm", "--force", "--time", "0", self.name, check=False)

    @property
    def grace_s(self) -> int:
        """What Kubernetes gives it to stop, in seconds."""
        return int(self._template.get("terminationGracePeriodSeconds", 30))

    def stop(self) -> int:
        """Ask it to stop as Kubernetes does, kill it when the grace period is over; its exit status."""
        podman("stop", "--time", str(self.grace_s), self.name, timeout_s=self.grace_s + 30)
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", self.name))

    def kill(self) -> None:
        """End it at once."""
        podman("kill", "--signal", "KILL", self.name)

    def again(self) -> None:
        """Start it again after it has ended, as its restart policy has it."""
        podman("start", self.name)

    def logs(self) -> str:
        """What it has written."""
        done = subprocess.run([*PODMAN, "logs", self.name], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout + done.stderr

    def resident_mib(self) -> float:
        """Memory of its processes, in MiB."""
        lines = podman("top", self.name, "rss").splitlines()[1:]
        return sum(float(line) for line in lines) / 1024

    def _flags(self) -> list[str]:
        pod, own = self._template.get("securityContext", {}), self._container.get("securityContext", {})
        flags = [*LIMITS]
        user, group = (own.get(key, pod.get(key)) for key in ("runAsUser", "runAsGroup"))
        if user is not None:
            flags += ["--user", f"{user}:{user if group is None else group}"]
        if own.get("readOnlyRootFilesystem"):
            flags.append("--read-only")
        flags += [f"--cap-drop={name.lower()}" for name in own.get("capabilities", {}).get("drop", ())]
        if own.get("allowPrivilegeEscalation") is False:
            flags.append("--security-opt=no-new-privileges")
        flags += [f"--entrypoint={name}" for name in self._container.get("command", ())[:1]]
        for port, here in self._ports.items():
            flags.append(f"--publish=127.0.0.1:{here}:{port}")
        for entry in self._container.get("env", ()):
            if (value := self._value(entry)) is not None:
                flags.append(f"--env={entry['name']}={value}")
        for mount in self._container.get("volumeMounts", ()):
            flags += self._mount(mount)
        return flags

    def _arguments(self) -> list[str]:
        return [str(one) for one in (*self._container.get("command", ())[1:], *self._container.get("args", ()))]

    def _value(self, entry: Mapping[str, Any]) -> str | None:
        source = entry.get("valueFrom")
        if source is None:
            return str(entry.get("value", ""))
        for kind, key in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
            if key in source:
                return self._objects.data(kind, source[key]["name"])[source[key]["key"]]
        path = source["fieldRef"]["fieldPath"]
        return {"metadata.name": self.name, "metadata.namespace": "default"}.get(path)

    def _mount(self, mount: Mapping[str, Any]) -> list[str]:
        (volume,) = [one for one in self._template["volumes"] if one["name"] == mount["name"]]
        mode = "ro" if mount.get("readOnly") else "rw"
        if "emptyDir" in volume:
            return [f"--tmpfs={mount['mountPath']}:mode=1777"]
        if "persistentVolumeClaim" in volume:
            folder = self._objects.claims[volume["persistentVolumeClaim"]["claimName"]]
        else:
            folder = self._files(volume)
        inner = f"/{mount['subPath']}" if "subPath" in mount else ""
        return [f"--volume={folder}{inner}:{mount['mountPath']}:{mode}"]

    def _files(self, volume: Mapping[str, Any]) -> Path:
        folder: Path = self._folder / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            texts = self._objects.data("ConfigMap", volume["configMap"]["name"])
        else:
            texts = self._objects.data("Secret", volume["secret"]["secretName"])
        for name, text in texts.items():
            (folder / name).write_text(text)
        return folder
