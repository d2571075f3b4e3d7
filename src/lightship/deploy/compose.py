"""`lightship deploy compose`: gateway and engines on one machine with Docker Compose.

Engines are on a network of their own that leads nowhere; only the gateway is on both. Compose changes no numbers of
replicas: it runs the least that the spec allows.
"""

from __future__ import annotations

from typing import Any

from lightship.deploy.document import Document, Rendered, unique_paths, without_none, yaml_text
from lightship.deploy.images import LLAMA_SERVER, PYTHON, Images, build_name, image_documents
from lightship.deploy.inputs import RenderInput
from lightship.deploy.kubernetes.engines import Engine
from lightship.deploy.kubernetes.overlays import hardware_choices
from lightship.deploy.lifecycle import STARTUP_PERIOD_S, gateway_lifecycle
from lightship.deploy.placeholders import Places, filled_command, filled_files, gateway_places, rung_places
from lightship.deploy.sizes import (
    mebibytes,
    needs_reckonings,
    rung_reckonings,
    shared_memory_mib,
    whole_cores,
)
from lightship.errors import SpecError
from lightship.ports.deployment import DeployedRung

_ENGINE_CONFIG, _GATEWAY_CONFIG = "/etc/lightship/engine", "/etc/lightship/gateway"
_MODEL, _STATE, _TLS = "/mnt/model", "/var/lib/lightship", "/etc/lightship/tls"
_PROMETHEUS_PORT, _REDIS_PORT = 9090, 6379


def render_compose(around: RenderInput) -> Rendered:
    """Everything for one machine.

    Raises: SpecError: a rung needs several machines, or two ports clash.
    """
    for rung in around.deployment.rungs:
        if rung.needs.num_nodes > 1:
            what = f"{rung.variant_name} is split over {rung.needs.num_nodes} machines, and Compose has one"
            raise SpecError(what, where="deploy", hint="Take kubernetes, or raise deploy.gpus_per_node.")
    if around.settings.compose.prometheus_port == around.machine_gateway.port:
        what = f"{around.machine_gateway.port} is the gateway's port, too"
        raise SpecError(what, where="deploy.compose.prometheus_port", hint="Choose another one.")
    services, configs, documents = _services(around)
    content = without_none(
        {
            "name": around.names.prefix,
            "services": services,
            "networks": {"front": {}, "engines": {"internal": True}},
            "configs": configs,
            "volumes": {"state": {}} if around.machine_gateway.keeps_state else None,
            "secrets": _tls_secrets(around),
        }
    )
    engines = [engine for choice in hardware_choices(around).values() for engine in choice]
    reckonings = [*needs_reckonings(around.names.gateway, around.machine_gateway.needs)]
    for engine in engines[: len(around.deployment.rungs)]:
        reckonings += [*rung_reckonings(engine.name, engine.rung), *engine.lifecycle.reckonings]
    return Rendered(
        platform="compose",
        documents=unique_paths(
            [
                Document("compose.yaml", yaml_text(content)),
                *documents,
                Document("config/prometheus.yml", yaml_text(_prometheus(around, engines))),
                *image_documents(around, with_models=False),
            ]
        ),
        reckonings=tuple(reckonings),
        notes=tuple(_notes(around)),
        resources=({"kind": "Compose", **content},),
    )


def _services(around: RenderInput) -> tuple[dict[str, Any], dict[str, Any], list[Document]]:
    choices = hardware_choices(around)
    services: dict[str, Any] = {around.names.gateway: {}}
    configs: dict[str, Any] = {}
    documents: list[Document] = []
    depends: dict[str, Any] = {}
    has_profiles = len(choices) > 1
    for hardware, engines in choices.items():
        for engine in engines:
            name = f"{engine.name}-{hardware}" if has_profiles else engine.name
            files = filled_files(engine.rung.config_files, _engine_places(engine.around, engine.rung))
            mounted = _config_files(configs, documents, name, files, _ENGINE_CONFIG)
            services[name] = _engine(engine.around, engine, mounted, profile=hardware if has_profiles else "")
            depends[name] = {"condition": "service_healthy", **({"required": False} if has_profiles else {})}
    urls = [
        f"http://{name}:{rung.port}" for name, rung in zip(around.names.rungs, around.deployment.rungs, strict=True)
    ]
    places = gateway_places(
        around.machine_gateway, urls, host="0.0.0.0", config=_GATEWAY_CONFIG, state=_STATE, tls=_TLS, python=PYTHON
    )
    files = filled_files(around.machine_gateway.config_files, places)
    mounted = _config_files(configs, documents, around.names.gateway, files, _GATEWAY_CONFIG)
    services[around.names.gateway] = _gateway(around, places, mounted, depends)
    services |= _extras(around, configs)
    return services, configs, documents


def _engine_places(around: RenderInput, rung: DeployedRung) -> Places:
    return rung_places(
        rung,
        host="0.0.0.0",
        model=_MODEL,
        config=_ENGINE_CONFIG,
        python=Images(around).interpreter(rung),
        program=LLAMA_SERVER,
    )


def _config_files(
    configs: dict[str, Any], documents: list[Document], name: str, files: dict[str, str], folder: str
) -> list[dict[str, Any]]:
    """Mounts of a service's configuration. Effects: adds to `configs` and `documents`."""
    mounts = []
    for file, content in files.items():
        key, path = f"{name}-{file.replace('.', '-')}", f"config/{name}/{file}"
        configs[key] = {"file": f"./{path}"}
        documents.append(Document(path, content))
        mounts.append({"source": key, "target": f"{folder}/{file}"})
    return mounts


def _common(*, is_root_read_only: bool) -> dict[str, Any]:
    """What every container of ours keeps to."""
    return {
        "restart": "unless-stopped",
        "init": True,
        "user": "2000:2000",
        "read_only": is_root_read_only,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp"],
    }


def _engine(around: RenderInput, engine: Engine, configs: list[dict[str, Any]], *, profile: str) -> dict[str, Any]:
    rung, lifecycle = engine.rung, engine.lifecycle
    program, *arguments = filled_command(rung.command, _engine_places(around, rung))
    folder = around.model_folders.get(rung.variant_name, "")
    variable = f"MODEL_{rung.position}"
    source = (
        f"${{{variable}:-{folder}}}" if folder else f"${{{variable}:?the folder of the variant {rung.variant_name}}}"
    )
    shared = shared_memory_mib(rung)
    environment = {"HOME": "/tmp", **rung.environment}
    gpus = {"driver": "nvidia", "count": rung.needs.num_accelerators, "capabilities": ["gpu"]}
    replicas = around.deployment.min_replicas
    deploy = without_none(
        {
            "replicas": replicas if replicas > 1 else None,
            "resources": {"reservations": {"devices": [gpus]}} if rung.needs.num_accelerators else None,
        }
    )
    return without_none(
        {
            "image": Images(around).engine(rung),
            "profiles": [profile] if profile else None,
            # a GPU's libraries are linked into the container when it starts
            **_common(is_root_read_only=not rung.needs.num_accelerators),
            "entrypoint": [_escaped(program)],
            "command": [_escaped(word) for word in arguments],
            "environment": {key: _escaped(environment[key]) for key in sorted(environment)},
            "configs": configs or None,
            "volumes": [{"type": "bind", "source": source, "target": _MODEL, "read_only": True}],
            "networks": {"engines": {"aliases": [engine.name]}},
            "mem_limit": f"{mebibytes(rung.needs.memory_bytes) + shared}m",
            "cpus": float(whole_cores(rung.needs.num_cores)),
            "shm_size": f"{shared}m" if shared else None,
            "stop_grace_period": f"{lifecycle.grace_s}s",
            "healthcheck": _health(
                _health_python(around, rung),
                f"http://127.0.0.1:{rung.port}{rung.ready_path}",
                lifecycle.startup_budget_s,
            ),
            "deploy": deploy or None,
        }
    )


def _health_python(around: RenderInput, rung: DeployedRung) -> str:
    """An interpreter that is in the image."""
    return Images(around).interpreter(rung) if build_name(rung) != "llamacpp" else "python3"


def _gateway(
    around: RenderInput, places: Places, configs: list[dict[str, Any]], depends: dict[str, Any]
) -> dict[str, Any]:
    gateway, settings = around.machine_gateway, around.settings.compose
    program, *arguments = filled_command(gateway.command, places)
    lifecycle = gateway_lifecycle(
        gateway, [Engine(around, rung).lifecycle for rung in around.deployment.rungs], around.names.gateway
    )
    scheme = "https" if gateway.has_tls else "http"
    host = f"[{settings.publish}]" if ":" in settings.publish else settings.publish
    secrets = [{"source": name, "target": f"{_TLS}/{name}"} for name in ("tls.crt", "tls.key")]
    common = _common(is_root_read_only=True)
    if not gateway.keeps_state:
        common["tmpfs"] = ["/tmp", f"{_STATE}:uid=2000,gid=2000"]
    return without_none(
        {
            "image": Images(around).gateway,
            **common,
            "entrypoint": [_escaped(program)],
            "command": [_escaped(word) for word in arguments],
            "environment": {
                "HOME": "/tmp",
                "LIGHTSHIP_HOME": _STATE,
                **{name: f"${{{name}:?a secret the gateway needs}}" for name in around.deployment.secrets},
            },
            "configs": configs,
            "secrets": secrets if gateway.has_tls else None,
            "volumes": [{"type": "volume", "source": "state", "target": _STATE}] if gateway.keeps_state else None,
            "networks": ["front", "engines"],
            "ports": [f"{host}:{gateway.port}:{gateway.port}"],
            "depends_on": depends,
            "mem_limit": f"{mebibytes(gateway.needs.memory_bytes)}m",
            "cpus": float(whole_cores(gateway.needs.num_cores)),
            "stop_grace_period": f"{lifecycle.grace_s}s",
            "healthcheck": _health(
                PYTHON, f"{scheme}://127.0.0.1:{gateway.port}{gateway.ready_path}", lifecycle.startup_budget_s
            ),
        }
    )


def _health(python: str, url: str, start_s: int) -> dict[str, Any]:
    script = (
        f"import ssl, urllib.request as r; r.urlopen({url!r}, timeout=4, context=ssl._create_unverified_context())"
        if url.startswith("https")
        else f"import urllib.request as r; r.urlopen({url!r}, timeout=4)"
    )
    return {
        "test": ["CMD", python, "-c", script],
        "interval": "10s",
        "timeout": "5s",
        "retries": 6,
        "start_period": f"{start_s}s",
        "start_interval": f"{STARTUP_PERIOD_S}s",
    }


def _extras(around: RenderInput, configs: dict[str, Any]) -> dict[str, Any]:
    """Services that only run with their profile. Effects: adds to `configs`."""
    settings = around.settings
    configs["prometheus"] = {"file": "./config/prometheus.yml"}
    return {
        "redis": {
            "image": settings.images.redis,
            "profiles": ["redis"],
            "restart": "unless-stopped",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "user": "999:999",
            "entrypoint": ["redis-server"],
            "command": ["--save", "", "--appendonly", "no"],
            "networks": ["engines"],
            "mem_limit": "256m",
            "healthcheck": {"test": ["CMD", "redis-cli", "ping"], "interval": "10s", "timeout": "5s", "retries": 3},
        },
        "prometheus": {
            "image": settings.images.prometheus,
            "profiles": ["prometheus"],
            "restart": "unless-stopped",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "command": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"],
            "configs": [{"source": "prometheus", "target": "/etc/prometheus/prometheus.yml"}],
            "tmpfs": ["/prometheus:uid=65534,gid=65534"],
            "networks": ["front", "engines"],
            "ports": [f"127.0.0.1:{settings.compose.prometheus_port}:{_PROMETHEUS_PORT}"],
            "mem_limit": "512m",
        },
    }


def _prometheus(around: RenderInput, engines: list[Engine]) -> dict[str, Any]:
    gateway = around.machine_gateway
    job: dict[str, Any] = {
        "job_name": "gateway",
        "metrics_path": gateway.metrics_path,
        "static_configs": [{"targets": [f"{around.names.gateway}:{gateway.port}"]}],
    }
    if gateway.has_tls:
        job |= {"scheme": "https", "tls_config": {"insecure_skip_verify": True}}
    addresses = sorted({f"{one.name}:{one.rung.port}" for one in engines})
    return {
        "global": {"scrape_interval": "15s"},
        "scrape_configs": [job, {"job_name": "engines", "static_configs": [{"targets": addresses}]}],
    }


def _tls_secrets(around: RenderInput) -> dict[str, Any] | None:
    if not around.machine_gateway.has_tls:
        return None
    cert, key = around.tls_files
    return {"tls.crt": {"file": cert}, "tls.key": {"file": key}}


def _escaped(text: str) -> str:
    """Compose would replace what follows a dollar sign."""
    return text.replace("$", "$$")


def _notes(around: RenderInput) -> list[str]:
    found = [*around.deployment.notes]
    choices = hardware_choices(around)
    if len(choices) > 1:
        names = " or ".join(choices)
        found.append(
            f"Start it with one profile of the engines: docker compose --profile {around.hardware} up ({names})."
        )
    if around.deployment.max_replicas > around.deployment.min_replicas:
        least = max(1, around.deployment.min_replicas)
        found.append(f"Compose changes no number of replicas: each rung runs {least}.")
    if around.deployment.secrets:
        found.append(f"Set before the start: {', '.join(around.deployment.secrets)}.")
    if around.machine_gateway.keeps_state:
        gateway = around.names.gateway
        found.append(f"Make keys: docker compose exec {gateway} /opt/lightship/bin/lightship keys create TENANT")
    if around.machine_gateway.has_tls:
        found.append("The files of certificate and key must be readable by the user 2000.")
    missing = [one.variant_name for one in around.deployment.rungs if not around.model_folders.get(one.variant_name)]
    found += [
        f"{name} is not built yet: set MODEL_n to its folder, or run `lightship up --no-serve`." for name in missing
    ]
    return found
