"""`lightship deploy systemd`: one box at the edge without containers: a unit per process, held by one target."""

from __future__ import annotations

from lightship.deploy.document import HEADER, Document, Rendered, unique_paths
from lightship.deploy.images import model_tag
from lightship.deploy.inputs import RenderInput
from lightship.deploy.lifecycle import Lifecycle, gateway_lifecycle, rung_lifecycle
from lightship.deploy.placeholders import Places, filled_command, filled_files, gateway_places, rung_places
from lightship.deploy.sizes import mebibytes, needs_reckonings, rung_reckonings, whole_cores
from lightship.errors import SpecError
from lightship.ports.deployment import DeployedRung, ReplicaNeeds

_UNITS = "etc/systemd/system"
# A unit is stopped by one signal; nobody has to forget an address first, so only the drain and a margin count.
_STOP_MARGIN_S = 15
# Each line closes something that neither gateway nor engine needs.
# Source: systemd.exec(5); `systemd-analyze security` names what is left.
_HARDENING = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectProc=invisible",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "UMask=0077",
)


def render_systemd(around: RenderInput) -> Rendered:
    """Everything for one box.

    Raises: SpecError: a rung needs several machines, or more cores are pinned than systemd can name.
    """
    names, rungs = around.names, around.deployment.rungs
    for rung in rungs:
        if rung.needs.num_nodes > 1:
            what = f"{rung.variant_name} is split over {rung.needs.num_nodes} machines, and a box is one"
            raise SpecError(what, where="deploy", hint="Take kubernetes, or raise deploy.gpus_per_node.")
    reckonings = [*needs_reckonings(names.gateway, around.gateway.needs)]
    documents, first_core = [], 1
    for rung in rungs:
        name, cores = names.rungs[rung.position], whole_cores(rung.needs.num_cores)
        documents += _engine(around, rung, first_core=first_core if around.settings.systemd.pin_cores else 0)
        first_core += cores
        reckonings += [*rung_reckonings(name, rung), *rung_lifecycle(rung, name).reckonings]
    documents += [*_gateway(around), _target(around), _installer(around)]
    return Rendered("systemd", unique_paths(documents), tuple(reckonings), tuple(_notes(around)))


def _folder(around: RenderInput) -> str:
    return f"/etc/lightship/{around.names.prefix}"


def model_folder(around: RenderInput, rung: DeployedRung) -> str:
    """Where a rung's files are on the box."""
    return f"{around.settings.systemd.models}/{around.names.rungs[rung.position]}-{model_tag(rung)}"


def _engine(around: RenderInput, rung: DeployedRung, *, first_core: int) -> list[Document]:
    name, settings = around.names.rungs[rung.position], around.settings.systemd
    config = f"{_folder(around)}/{name}"
    places = rung_places(
        rung,
        host="127.0.0.1",
        model=model_folder(around, rung),
        config=config,
        python=settings.vllm_python if rung.engine == "vllm" else settings.python,
        program=settings.llama_server,
    )
    environment = {"HOME": "%T", **{key: _escaped(value) for key, value in sorted(rung.environment.items())}}
    lines = [
        *(f'Environment="{key}={value}"' for key, value in environment.items()),
        f"CacheDirectory=lightship/{name}",
        # it speaks to the gateway and to nobody else
        "IPAddressDeny=any",
        "IPAddressAllow=localhost",
    ]
    if not rung.needs.num_accelerators:
        lines.append("PrivateDevices=yes")
    if first_core:
        lines.append(f"CPUAffinity={first_core}-{first_core + whole_cores(rung.needs.num_cores) - 1}")
    unit = _unit(
        around,
        description=f"{around.deployment.model_name}: {rung.variant_name} on {rung.engine}",
        command=filled_command(rung.command, places),
        needs=rung.needs,
        lifecycle=rung_lifecycle(rung, name),
        lines=lines,
        address_families_more=" AF_NETLINK" if rung.engine == "vllm" else "",
    )
    files = filled_files(rung.config_files, places)
    return [
        Document(f"{_UNITS}/{name}.service", unit),
        *(Document(f"{config[1:]}/{file}", content) for file, content in files.items()),
    ]


def _gateway(around: RenderInput) -> list[Document]:
    names, gateway = around.names, around.host_gateway
    config, state = f"{_folder(around)}/{names.gateway}", f"/var/lib/lightship/{names.prefix}"
    places = _gateway_places(around, config, state)
    lifecycles = [rung_lifecycle(rung, names.rungs[rung.position]) for rung in around.deployment.rungs]
    lines = [
        'Environment="HOME=%T"',
        f'Environment="LIGHTSHIP_HOME={state}"',
        f"StateDirectory=lightship/{names.prefix}",
        "PrivateDevices=yes",
    ]
    if around.deployment.secrets:
        lines.append(f"EnvironmentFile={_folder(around)}/secrets.env")
    if gateway.has_tls:
        cert, key = around.tls_files
        lines += [f"LoadCredential=tls.crt:{cert}", f"LoadCredential=tls.key:{key}"]
    if around.settings.systemd.pin_cores:
        lines.append("CPUAffinity=0")
    if gateway.port < 1024:
        lines += ["CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "AmbientCapabilities=CAP_NET_BIND_SERVICE"]
    unit = _unit(
        around,
        description=f"{around.deployment.model_name}: gateway",
        command=filled_command(gateway.command, places),
        needs=gateway.needs,
        lifecycle=gateway_lifecycle(gateway, lifecycles, names.gateway),
        lines=lines,
        after=[f"{name}.service" for name in names.rungs],
    )
    return [
        Document(f"{_UNITS}/{names.gateway}.service", unit),
        *(Document(f"{config[1:]}/{file}", text) for file, text in filled_files(gateway.config_files, places).items()),
    ]


def _gateway_places(around: RenderInput, config: str, state: str) -> Places:
    urls = [f"http://127.0.0.1:{rung.port}" for rung in around.deployment.rungs]
    return gateway_places(
        around.host_gateway,
        urls,
        config=config,
        state=state,
        tls=f"/run/credentials/{around.names.gateway}.service",
        python=around.settings.systemd.python,
    )


def _unit(
    around: RenderInput,
    *,
    description: str,
    command: list[str],
    needs: ReplicaNeeds,
    lifecycle: Lifecycle,
    lines: list[str],
    after: list[str] | None = None,
    address_families_more: str = "",
) -> str:
    user = around.settings.systemd.user
    target = f"{around.names.prefix}.target"
    hardening = [
        line + address_families_more if line.startswith("RestrictAddressFamilies") else line for line in _HARDENING
    ]
    rest = "\n".join([*hardening, *lines])
    order = " ".join(["network-online.target", *(after or [])])
    return f"""{HEADER}
[Unit]
Description={_escaped(description)}
Wants=network-online.target
After={order}
PartOf={target}
# Tried again for ever, with a pause that grows; a limit of starts would leave it down.
StartLimitIntervalSec=0

[Service]
# None of these processes tells systemd when it is ready; the gateway asks each engine itself.
Type=exec
ExecStart={" ".join(_quoted(word) for word in command)}
Restart=always
RestartSec=1
RestartSteps=5
RestartMaxDelaySec=30
TimeoutStopSec={lifecycle.drain_s + _STOP_MARGIN_S}
# The signal to stop is for the main process, which ends the others.
KillMode=mixed
MemoryMax={mebibytes(needs.memory_bytes)}M
OOMPolicy=stop
{"DynamicUser=yes" if user == "dynamic" else f"User={user}"}
{rest}

[Install]
WantedBy={target}
"""


def _target(around: RenderInput) -> Document:
    content = f"""{HEADER}
[Unit]
Description={_escaped(around.deployment.model_name)}: all of it

[Install]
WantedBy=multi-user.target
"""
    return Document(f"{_UNITS}/{around.names.prefix}.target", content)


def _installer(around: RenderInput) -> Document:
    """A script that puts everything in its place; models under a name with their digest, so none is overwritten."""
    names, rungs = around.names, around.deployment.rungs
    units = " ".join(f"{name}.service" for name in (*names.rungs, names.gateway))
    copies = []
    for rung in rungs:
        target = model_folder(around, rung)
        folder = around.model_folders.get(rung.variant_name, "") or f"./models/{rung.variant_name}"
        copies.append(f'copy_model "${{MODEL_{rung.position}:-{folder}}}" "{target}"')
    content = f"""#!/bin/sh
{HEADER}
# Run as root on the box, from this folder. Models are read from the folders they had where this was rendered, or from
# MODEL_0, MODEL_1, ... A second run changes what has changed and starts that again.
set -eu
cd "$(dirname "$0")"

copy_model() {{ # FROM TO
  if [ -d "$2" ]; then return; fi
  rm -rf "$2.partial"
  mkdir -p "$(dirname "$2")"
  cp -R "$1" "$2.partial"
  chmod -R a+rX "$2.partial"
  mv "$2.partial" "$2"
}}

{chr(10).join(copies)}
mkdir -p "{_folder(around)}"
cp -R etc/lightship/. /etc/lightship/
chmod -R a+rX "{_folder(around)}"
if [ -f "{_folder(around)}/secrets.env" ]; then chmod 600 "{_folder(around)}/secrets.env"; fi
cp {_UNITS}/* /{_UNITS}/
systemctl daemon-reload
systemctl enable {units} {names.prefix}.target
systemctl start {names.prefix}.target
systemctl restart {units}
"""
    return Document("install.sh", content, is_executable=True)


def _escaped(text: str) -> str:
    """Without what systemd would expand: % is a specifier, and a quote ends a value."""
    return text.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"').replace("\n", " ")


def _quoted(word: str) -> str:
    """One word of a command line as systemd reads it. Source: systemd.service(5), "Command lines"."""
    safe = _escaped(word).replace("$", "$$")
    is_plain = word and all(one.isalnum() or one in "-_./:=@+,%" for one in word)
    return safe if is_plain else f'"{safe}"'


def _notes(around: RenderInput) -> list[str]:
    names, found = around.names, [*around.deployment.notes]
    if around.deployment.secrets:
        lines = ", ".join(f"{name}=..." for name in around.deployment.secrets)
        found.append(f"Write {_folder(around)}/secrets.env on the box before: {lines}, one per line, for root only.")
    if around.host_gateway.keeps_state:
        python, state = around.settings.systemd.python, f"lightship/{names.prefix}"
        found.append(
            "Make keys on the box: systemd-run --pipe --wait -p DynamicUser=yes "
            f"-p StateDirectory={state} -E LIGHTSHIP_HOME=/var/lib/{state} {python} -m lightship keys create TENANT; "
            f"then systemctl restart {names.gateway}"
        )
    if around.deployment.max_replicas > 1:
        found.append("A box runs one replica of each rung, whatever `replicas` says.")
    found.append("systemd before 254 ignores RestartSteps and RestartMaxDelaySec, and tries again every second.")
    return found
