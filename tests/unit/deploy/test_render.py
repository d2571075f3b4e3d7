"""What platforms get, setting by setting: the expected values follow from the rules in docs/deployment.md by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy_cases import CASES, built, input_of, spec_of

from lightship.deploy.document import Rendered
from lightship.deploy.inputs import RenderInput
from lightship.deploy.lifecycle import gateway_lifecycle, rung_lifecycle
from lightship.deploy.names import make_names, plain_name
from lightship.deploy.render import render
from lightship.errors import SpecError
from lightship.ports.deployment import Figure, FigureSource


def rendered(platform: str, case: str, home: Path, **changes: Any) -> Rendered:
    return render(platform, built(input_of(spec_of(CASES[case], **changes), home, platform=platform)))


def found(result: Rendered, kind: str, name: str) -> Any:
    (one,) = [one for one in result.resources if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return one


def pod(result: Rendered, name: str) -> Any:
    return found(result, "Deployment", name)["spec"]["template"]["spec"]


def figure(value: float) -> Figure:
    return Figure(value, "s", FigureSource.GIVEN, "by hand")


def test_lifecycle_of_an_engine_that_drains(deploy_home: Path) -> None:
    """16 GB / 100 MB/s x 2 + 120 s = 440 s = 88 x 5 s; (15 + 55) x 1.5 = 105 s."""
    around = input_of(spec_of(CASES["gpu"]), deploy_home)
    rung = around.deployment.rungs[0]
    rung = replace(rung, needs=replace(rung.needs, drain_s=figure(55)))
    life = rung_lifecycle(rung, "x")
    assert (life.startup_budget_s, life.startup_failures, life.progress_deadline_s) == (440, 88, 440 + 900)
    assert (life.pre_stop_s, life.drain_s, life.grace_s) == (15, 55, 105)


def test_lifecycle_engine_that_cuts_answers_is_told_to_stop_after_the_drain(deploy_home: Path) -> None:
    """llama-server ends at SIGTERM, so the wait before it is 15 + 30 s, and 45 x 1.5 = 67.5 s make 70."""
    life = rung_lifecycle(input_of(spec_of(CASES["edge"]), deploy_home).deployment.rungs[0], "x")
    assert (life.pre_stop_s, life.grace_s) == (45, 70)


def test_lifecycle_gateway_outlasts_its_engines(deploy_home: Path) -> None:
    around = input_of(spec_of(CASES["gpu"]), deploy_home)
    rung = around.deployment.rungs[0]
    long = rung_lifecycle(replace(rung, needs=replace(rung.needs, drain_s=figure(300))), "x")
    assert long.grace_s == 475  # (15 + 300) x 1.5 = 472.5
    assert gateway_lifecycle(around.gateway, [long], "g").grace_s == 475


@pytest.mark.parametrize(("case", "name"), [("cpu", "storyteller-fp16"), ("gpu", "chat-bf16")])
def test_kubernetes_replicas_are_left_out_where_something_scales(case: str, name: str, deploy_home: Path) -> None:
    result = rendered("kubernetes", case, deploy_home)
    assert "replicas" not in found(result, "Deployment", name)["spec"]


def test_kubernetes_replicas_are_there_where_nobody_scales(deploy_home: Path) -> None:
    result = rendered("kubernetes", "edge", deploy_home, replicas__min=2, replicas__max=2)
    assert found(result, "Deployment", "storyteller-q8-0")["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"deploy__kubernetes__autoscaler": "none"}, "nobody would ever start a replica"),
        ({"deploy__kubernetes__autoscaler": "none", "replicas__min": 1}, "nobody changes the number"),
        ({"deploy__kubernetes__autoscaler": "hpa"}, "goes to zero from Kubernetes 1.37 only"),
        (
            {
                "deploy__kubernetes__autoscaler": "hpa",
                "replicas__min": 1,
                "model__name": "org/name",
                "deploy__name": "a",
            },
            "no value of a Kubernetes label",
        ),
        ({"deploy__kubernetes__gateways": 2}, "would each count limits"),
        ({"deploy__kubernetes__version": "v1.29", "deploy__kubernetes__models__by": "copy"}, "has no preStop sleep"),
    ],
)
def test_kubernetes_settings_that_do_not_go_together_are_refused(
    changes: dict[str, Any], told: str, deploy_home: Path
) -> None:
    with pytest.raises(SpecError, match=told):
        rendered("kubernetes", "cpu", deploy_home, **changes)


def test_kubernetes_hpa_to_zero_is_rendered_for_new_clusters(deploy_home: Path) -> None:
    changes = {"deploy__kubernetes__autoscaler": "hpa", "deploy__kubernetes__version": "v1.37"}
    result = rendered("kubernetes", "cpu", deploy_home, **changes)
    assert found(result, "HorizontalPodAutoscaler", "storyteller-int8")["spec"]["minReplicas"] == 0


def test_kubernetes_autoscaler_gateway_may_patch_its_own_engines_only(deploy_home: Path) -> None:
    result = rendered("kubernetes", "cpu", deploy_home)
    rules = found(result, "Role", "storyteller-scaler")["rules"]
    assert rules[0]["resourceNames"] == ["storyteller-fp16", "storyteller-int8"]
    assert rules[0]["verbs"] == ["get", "patch"]
    assert found(result, "Lease", "storyteller-scaler")["spec"] == {"leaseDurationSeconds": 15}
    assert pod(result, "storyteller-gateway")["automountServiceAccountToken"] is True


def test_kubernetes_gateway_may_only_follow_pods_where_others_scale(deploy_home: Path) -> None:
    result = rendered("kubernetes", "gpu", deploy_home)
    rules = found(result, "Role", "chat-scaler")["rules"]
    assert rules == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    assert [one for one in result.resources if one["kind"] == "Lease"] == []
    assert pod(result, "chat-gateway")["automountServiceAccountToken"] is True


def test_kubernetes_secrets_are_references_and_keys_have_a_volume(deploy_home: Path) -> None:
    result = rendered("kubernetes", "cpu", deploy_home)
    spec = pod(result, "storyteller-gateway")
    variables = {one["name"]: one for one in spec["containers"][0]["env"]}
    reference = {"secretKeyRef": {"name": "storyteller-secrets", "key": "CLOUD_KEY"}}
    assert variables["CLOUD_KEY"]["valueFrom"] == reference
    assert {"name": "state", "persistentVolumeClaim": {"claimName": "storyteller-gateway-state"}} in spec["volumes"]
    assert found(result, "Deployment", "storyteller-gateway")["spec"]["strategy"] == {"type": "Recreate"}


def test_kubernetes_engines_are_reached_by_the_gateway_and_by_prometheus_only(deploy_home: Path) -> None:
    result = rendered("kubernetes", "cpu", deploy_home, deploy__kubernetes__route={})
    spec = found(result, "NetworkPolicy", "storyteller-fp16")["spec"]
    assert spec["egress"] == []
    assert [list(one["from"][0]) for one in spec["ingress"]] == [["podSelector"], ["namespaceSelector"]]


def test_kubernetes_gateway_reaches_dns_engines_api_server_and_the_upstream(deploy_home: Path) -> None:
    spec = found(rendered("kubernetes", "cpu", deploy_home), "NetworkPolicy", "storyteller-gateway")["spec"]
    ports = [sorted({port["port"] for port in one["ports"]}) for one in spec["egress"]]
    assert ports == [[53], [8100, 8101], [8080], [443, 6443], [443]]


def test_kubernetes_model_ids_with_a_slash_stand_in_annotations_only(deploy_home: Path) -> None:
    deployment = found(rendered("kubernetes", "gpu", deploy_home), "Deployment", "chat-bf16")
    assert deployment["metadata"]["annotations"]["lightship.dev/model"] == "acme/chat-8b"
    assert all("acme" not in value for value in deployment["metadata"]["labels"].values())


def test_kubernetes_configuration_is_in_the_checksum(deploy_home: Path) -> None:
    def checksum(**changes: Any) -> str:
        result = rendered("kubernetes", "cpu", deploy_home, **changes)
        template = found(result, "Deployment", "storyteller-fp16")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum()
    assert checksum() != checksum(engines={"openvino": {"max_sequences": 7}})


def test_kubernetes_gpu_has_limit_toleration_runtime_class_and_shared_memory(deploy_home: Path) -> None:
    spec = pod(rendered("kubernetes", "gpu", deploy_home), "chat-bf16")
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2048Mi"}}
    assert shm in spec["volumes"]


def test_kubernetes_replica_over_two_machines_is_a_leader_worker_set(deploy_home: Path) -> None:
    result = rendered("kubernetes", "gpu", deploy_home, deploy__gpus_per_node=1)
    template = found(result, "LeaderWorkerSet", "chat-bf16")["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    leader, worker = (template[name]["spec"]["containers"][0] for name in ("leaderTemplate", "workerTemplate"))
    assert [leader["command"][0], *leader["args"][:2]] == ["vllm", "serve", "/mnt/model/chat-bf16-aaaaaaaaaaaa"]
    assert leader["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert leader["args"][-6:] == [
        *("--nnodes", "2", "--node-rank", "$(LWS_WORKER_INDEX)"),
        *("--master-addr", "$(LWS_LEADER_ADDRESS)"),
    ]
    assert worker["args"][-1] == "--headless"
    assert "readinessProbe" not in worker
    assert found(result, "Service", "chat-bf16")["spec"]["selector"]["lightship.dev/role"] == "leader"


def test_kubernetes_gateway_does_not_scale_a_leader_worker_set(deploy_home: Path) -> None:
    changes = {"deploy__gpus_per_node": 1, "deploy__kubernetes__autoscaler": "gateway"}
    with pytest.raises(SpecError, match="the gateway scales Deployments"):
        rendered("kubernetes", "gpu", deploy_home, **changes)


@pytest.mark.parametrize(("autoscaler", "scales"), [("gateway", True), ("keda", False)])
def test_kubernetes_gateway_that_follows_pods_gets_pools_in_place_of_addresses(
    autoscaler: str, scales: bool, deploy_home: Path
) -> None:
    spec = spec_of(CASES["cpu"], deploy__kubernetes__autoscaler=autoscaler)
    around = built(input_of(spec, deploy_home))
    around = replace(around, gateway=replace(around.gateway, reads_cluster=True))
    result = render("kubernetes", around)
    config = json.loads(found(result, "ConfigMap", "storyteller-gateway-config")["data"]["gateway.json"])
    assert [one["name"] for one in config["replicas"]] == ["cloud"]
    cluster = config["cluster"]
    assert (cluster["scales"], cluster["lease_name"]) == (scales, "storyteller-scaler")
    top = cluster["pools"][0]
    assert (top["deployment"], top["port"], top["rung"]) == ("storyteller-fp16", 8100, 0)
    assert top["policy"]["in_flight_per_replica"] == 20  # 0.65 x 32
    assert (top["policy"]["min_replicas"], top["policy"]["max_replicas"]) == (0, 4)
    labels = found(result, "Deployment", "storyteller-fp16")["spec"]["template"]["metadata"]["labels"]
    assert top["selector"].items() <= labels.items()
    verbs = {verb for rule in found(result, "Role", "storyteller-scaler")["rules"] for verb in rule["verbs"]}
    assert ("patch" in verbs) is scales


def test_kubernetes_models_by_claim_are_copied_once_and_checked(deploy_home: Path) -> None:
    result = rendered("kubernetes", "gpu", deploy_home)
    assert found(result, "PersistentVolumeClaim", "chat-models")["spec"]["storageClassName"] == "fast"
    (job,) = [one for one in result.resources if one["kind"] == "Job"]
    script = job["spec"]["template"]["spec"]["containers"][0]["command"][2]
    assert script.index("sha256sum -c") < script.index('mv "$partial" "$target"')


def test_kubernetes_overlay_for_the_other_hardware_takes_its_image_and_interpreter(deploy_home: Path) -> None:
    documents = {one.path: one.content for one in rendered("kubernetes", "gpu", deploy_home).documents}
    patch = yaml.safe_load(documents["kustomize/overlays/cpu/chat-bf16.yaml"])
    container = patch["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["command"]) == ("lightship/vllm-cpu:0.1.0", ["/opt/vllm/bin/python"])
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "no volume that outlasts a Pod"),
        ({"gateway__keys__required": False}, "would each count limits"),
        ({"gateway__keys__required": False, "replicas__max": 1, "replicas__idle_after_s": 7200}, "at most 3600 s"),
    ],
)
def test_knative_what_it_cannot_do_is_refused(changes: dict[str, Any], told: str, deploy_home: Path) -> None:
    with pytest.raises(SpecError, match=told):
        rendered("knative", "cpu", deploy_home, **changes)


def test_knative_sleeping_service_has_one_port_and_keeps_its_engines_inside(deploy_home: Path) -> None:
    changes = {"gateway__keys__required": False, "replicas__max": 1}
    result = rendered("knative", "cpu", deploy_home, **changes)
    template = found(result, "Service", "storyteller")["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    assert annotations["autoscaling.knative.dev/min-scale"] == "0"
    assert annotations["autoscaling.knative.dev/scale-to-zero-pod-retention-period"] == "900s"
    containers = template["spec"]["containers"]
    assert [one["name"] for one in containers if "ports" in one] == ["gateway"]
    config = found(result, "ConfigMap", "storyteller-gateway-config")["data"]["gateway.json"]
    assert '"http://127.0.0.1:8101"' in config


def test_kserve_model_that_sleeps_is_refused(deploy_home: Path) -> None:
    with pytest.raises(SpecError, match="would never be woken"):
        rendered("kserve", "gpu", deploy_home, replicas__min=0)


def test_kserve_arguments_survive_the_shell_that_reads_them_again(deploy_home: Path) -> None:
    result = rendered("kserve", "gpu", deploy_home, variants=["ngram-draft"])
    service = found(result, "LLMInferenceService", "chat-ngram-draft")
    arguments = service["spec"]["template"]["containers"][0]["args"]
    assert not [one for one in arguments if one.startswith(("--model=", "--port", "--host", "--tensor-parallel"))]
    assert service["spec"]["parallelism"] == {"tensor": 2}
    assert service["spec"]["model"]["uri"] == "oci://lightship/chat-ngram-draft-model:aaaaaaaaaaaa"


def test_kserve_cpu_without_an_image_of_its_own_is_refused(deploy_home: Path) -> None:
    changes = {"engines": {"vllm": {}}, "deploy__images": {}, "deploy__cores": 4}
    with pytest.raises(SpecError, match="the image for CPUs has not got"):
        rendered("kserve", "gpu", deploy_home, **changes)


def test_ray_config_of_hub_weights_pins_the_revision(deploy_home: Path) -> None:
    result = rendered("ray", "gpu", deploy_home)
    (config,) = result.resources[0]["applications"][0]["args"]["llm_configs"]
    assert config["model_loading_config"] == {"model_id": "acme/chat-8b", "model_source": "acme/chat-8b"}
    assert config["engine_kwargs"]["revision"] == "0123456789abcdef0123456789abcdef01234567"
    assert config["engine_kwargs"]["tensor_parallel_size"] == 2
    assert config["deployment_config"]["autoscaling_config"]["target_ongoing_requests"] == 20  # 0.65 x 32
    assert "HF_HUB_OFFLINE" not in config["runtime_env"]["env_vars"]


@pytest.mark.parametrize("platform", ["compose", "systemd"])
def test_one_machine_platforms_refuse_a_rung_over_several(platform: str, deploy_home: Path) -> None:
    with pytest.raises(SpecError, match="split over 2 machines"):
        rendered(platform, "gpu", deploy_home, deploy__gpus_per_node=1)


def test_compose_containers_are_closed_and_bounded(deploy_home: Path) -> None:
    (content,) = rendered("compose", "cpu", deploy_home).resources
    for name in ("storyteller-gateway", "storyteller-fp16", "storyteller-int8"):
        service = content["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["mem_limit"].endswith("m")
    assert content["networks"]["engines"] == {"internal": True}
    assert content["services"]["storyteller-fp16"]["networks"].keys() == {"engines"}
    assert content["services"]["storyteller-gateway"]["environment"]["CLOUD_KEY"].startswith("${CLOUD_KEY:?")


def test_systemd_units_stop_after_the_drain_and_pin_their_cores(deploy_home: Path) -> None:
    documents = {one.path: one.content for one in rendered("systemd", "edge", deploy_home).documents}
    unit = documents["etc/systemd/system/storyteller-q8-0.service"]
    assert "TimeoutStopSec=45" in unit  # 30 s and a margin of 15
    assert "CPUAffinity=1-3" in unit
    assert "CPUAffinity=0" in documents["etc/systemd/system/storyteller-gateway.service"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("Qwen/Qwen2.5-7B_Chat", "qwen-qwen2-5-7b-chat"), ("--x--", "x"), ("q4_k_m", "q4-k-m"), ("../", "")],
)
def test_names_are_made_of_small_letters_digits_and_hyphens(text: str, name: str) -> None:
    assert plain_name(text) == name


def test_names_of_a_model_that_begins_with_a_digit_begin_with_a_letter() -> None:
    assert make_names("auto", "7b-chat", ["int8"]).rungs == ("model-7b-chat-int8",)


def test_names_two_variants_that_would_get_the_same_are_refused() -> None:
    with pytest.raises(SpecError, match="get the same name"):
        make_names("a", "m", ["int8.x", "int8-x"])


def test_names_variant_called_gateway_is_refused() -> None:
    with pytest.raises(SpecError, match="is taken"):
        make_names("a", "m", ["gateway"])


def test_names_exactly_63_characters_are_allowed() -> None:
    assert len(make_names("a" * 48, "m", ["int8"]).gateway_config) == 63


def no_placeholder_left(around: RenderInput, platform: str) -> None:
    for one in render(platform, around).documents:
        for placeholder in (
            "{model}",
            "{config}",
            "{host}",
            "{port}",
            "{python}",
            "{program}",
            "{state}",
            "{tls}",
            "{rung-",
        ):
            assert placeholder not in one.content, one.path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("platform", ["compose", "kubernetes", "systemd"])
def test_no_placeholder_is_left(platform: str, case: str, deploy_home: Path) -> None:
    no_placeholder_left(input_of(spec_of(CASES[case]), deploy_home, platform=platform), platform)
