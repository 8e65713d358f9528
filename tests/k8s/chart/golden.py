"""What the chart rendered when somebody last looked: one file a scenario in golden/.

python -m tests.k8s.chart.golden      writes them anew; look at the difference before it is committed
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tests.k8s.chart.helm import CASES, Helm4, Manifest, case

FOLDER = Path(__file__).parent / "golden"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Everything is written where it stands."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def written(manifests: Sequence[Manifest]) -> str:
    """The objects, by kind and name, without what is random and what other tests look at."""
    plain = [_plain(one) for one in manifests]
    plain.sort(key=lambda one: (one["kind"], one["metadata"]["name"]))
    return yaml.dump_all(plain, Dumper=_Dumper, sort_keys=True, explicit_start=True, width=200)


def _plain(manifest: Manifest) -> dict[str, Any]:
    one: dict[str, Any] = copy.deepcopy(dict(manifest))
    if one["kind"] == "Secret" and "auth_token" in one.get("data", {}):
        one["data"]["auth_token"] = "(random)"
    if one["kind"] == "PrometheusRule":
        one["spec"]["groups"] = "(alerts/rules.yaml)"
    if one["kind"] == "ConfigMap" and one["metadata"]["labels"]["app.kubernetes.io/component"] == "dashboard":
        one["data"] = dict.fromkeys(one["data"], "(dashboards/)")
    annotations = one.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {})
    for key in annotations:
        if key.startswith("checksum/"):
            annotations[key] = "(sha256)"
    return one


def main() -> int:
    """Write all of them."""
    if reason := Helm4.missing():
        print(reason, file=sys.stderr)
        return 2
    FOLDER.mkdir(exist_ok=True)
    with Helm4() as helm:
        for path in CASES:
            name = path.name.removesuffix("-values.yaml")
            (FOLDER / f"{name}.yaml").write_text(written(helm.template(case(name))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
