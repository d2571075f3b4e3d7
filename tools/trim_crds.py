"""Makes the schemas in tests/schemas/crds from CRD files: `python tools/trim_crds.py crd.yaml ... --out DIR`.

Descriptions, status and the specs of Pods are left out: the first is text, the second nobody renders, and Pods are
validated with Kubernetes' own schemas.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

_POD = {"type": "object", "x-is-pod": True}


def trimmed(node: Any) -> Any:
    """The schema without text; the spec of a Pod becomes a mark."""
    if isinstance(node, list):
        return [trimmed(one) for one in node]
    if not isinstance(node, dict):
        return node
    properties = node.get("properties")
    if isinstance(properties, dict) and {"containers", "terminationGracePeriodSeconds"} <= set(properties):
        return _POD
    return {key: trimmed(value) for key, value in node.items() if key != "description" or not isinstance(value, str)}


def main() -> None:
    """Writes one file for each version of each CRD in the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--version", help="only this one of each CRD")
    parser.add_argument("--without", action="append", default=[], metavar="FIELD", help="leave out this field of spec")
    args = parser.parse_args()
    for file in args.files:
        for crd in yaml.safe_load_all(file.read_text("utf-8")):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                if args.version not in {None, version["name"]}:
                    continue
                schema = trimmed(version["schema"]["openAPIV3Schema"])
                schema["properties"].pop("status", None)
                for field in args.without:
                    schema["properties"]["spec"]["properties"].pop(field, None)
                name = f"{spec['group']}_{version['name']}_{spec['names']['kind']}.json"
                content = json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n"
                (args.out / name).write_text(content, encoding="utf-8")
                print(name, len(content))


if __name__ == "__main__":
    main()
