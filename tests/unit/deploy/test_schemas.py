"""Everything that is rendered, against Kubernetes' own schemas and the CRDs', with no unknown field allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.deploy_cases import CASES, built, input_of, spec_of
from tests.deploy_schemas import SCHEMAS, VERSIONS, crd_path, schema_errors

from lightship.deploy.document import Rendered
from lightship.deploy.render import render

MANY = [
    (case, {"deploy__kubernetes__autoscaler": autoscaler, "deploy__kubernetes__models__by": by, **more})
    for case, autoscaler, by, more in (
        ("cpu", "gateway", "image", {}),
        ("cpu", "keda", "copy", {}),
        ("cpu", "hpa", "claim", {"replicas__min": 1}),
        ("gpu", "keda", "claim", {}),
        (
            "gpu",
            "hpa",
            "image",
            {"model__name": "chat", "deploy__gpus_per_node": 1, "deploy__kubernetes__monitoring__resources": True},
        ),
        ("edge", "none", "copy", {}),
    )
]


def kubernetes_resources(rendered: Rendered) -> list[dict[str, Any]]:
    """Parsed from what is written, not from what was in memory."""
    documents = [one for one in rendered.documents if one.path.endswith(".yaml") and "kustomization" not in one.path]
    found = [one for document in documents for one in yaml.safe_load_all(document.content)]
    return [one for one in found if isinstance(one, dict) and "apiVersion" in one]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("case", "changes"), MANY)
def test_kubernetes_resources_satisfy_strict_schemas(
    case: str, changes: dict[str, Any], version: str, deploy_home: Path
) -> None:
    rendered = render("kubernetes", built(input_of(spec_of(CASES[case], **changes), deploy_home)))
    plain = [one for one in rendered.documents if "/" not in one.path]
    resources = [one for document in plain for one in yaml.safe_load_all(document.content)]
    assert len(resources) > 5
    errors = {f"{one['kind']}/{one['metadata']['name']}": schema_errors(one, version) for one in resources}
    assert {name: found for name, found in errors.items() if found} == {}


@pytest.mark.parametrize(
    ("platform", "case", "changes", "kinds"),
    [
        ("knative", "cpu", {"gateway__keys__required": False, "replicas__max": 1}, {"ConfigMap", "Service"}),
        ("kserve", "gpu", {}, {"LLMInferenceService"}),
        ("kserve", "gpu", {"replicas__max": 1, "deploy__kserve__storage": "image"}, {"LLMInferenceService"}),
        ("ray", "gpu", {}, {"RayService"}),
        ("ray", "gpu", {"variants": ["w8a8"], "replicas__min": 0}, {"RayService"}),
    ],
)
def test_resources_of_other_platforms_satisfy_strict_schemas(
    platform: str, case: str, changes: dict[str, Any], kinds: set[str], deploy_home: Path
) -> None:
    around = built(input_of(spec_of(CASES[case], **changes), deploy_home, platform=platform))
    resources = kubernetes_resources(render(platform, around))
    assert {one["kind"] for one in resources} == kinds
    for one in resources:
        assert schema_errors(one, VERSIONS[-1]) == []


def test_schemas_are_of_three_versions() -> None:
    assert len(set(VERSIONS)) == 3


def test_custom_resources_have_a_schema_each(deploy_home: Path) -> None:
    """A kind that no schema is kept of would be validated as nothing."""
    rendered = render("kubernetes", input_of(spec_of(CASES["cpu"]), deploy_home))
    foreign = [one for one in kubernetes_resources(rendered) if "." in one["apiVersion"].partition("/")[0]]
    own = (".k8s.io", "policy")
    custom = [
        one for one in foreign if one["kind"] in {"ServiceMonitor", "PrometheusRule", "HTTPRoute", "InferencePool"}
    ]
    assert custom
    assert all(crd_path(one).exists() for one in custom)
    assert all(crd_path(one).exists() or one["apiVersion"].partition("/")[0].endswith(own) for one in foreign)


@pytest.mark.parametrize(("kind", "field"), [("Deployment", "spec"), ("HTTPRoute", "spec"), ("InferencePool", "spec")])
def test_schemas_unknown_field_is_found(kind: str, field: str, deploy_home: Path) -> None:
    resources = kubernetes_resources(render("kubernetes", input_of(spec_of(CASES["cpu"]), deploy_home)))
    resource = next(one for one in resources if one["kind"] == kind)
    resource[field]["workload"] = {}
    assert schema_errors(resource, VERSIONS[-1]) != []


@pytest.mark.parametrize("case", CASES)
def test_compose_file_satisfies_the_compose_specification(case: str, deploy_home: Path) -> None:
    rendered = render("compose", built(input_of(spec_of(CASES[case]), deploy_home, platform="compose")))
    content = yaml.safe_load(next(one.content for one in rendered.documents if one.path == "compose.yaml"))
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text("utf-8"))
    errors = [f"{list(one.path)}: {one.message}" for one in jsonschema.Draft7Validator(schema).iter_errors(content)]
    assert errors == []
