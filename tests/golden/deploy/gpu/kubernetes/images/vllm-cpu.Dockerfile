# syntax=docker/dockerfile:1
# managed by lightship: rendered from a spec by `lightship deploy`; changes are lost at the next rendering
# vLLM for CPUs as its toolchain has it, package by package as tested.
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /build/constraints.txt
COPY wheels /build/wheels
RUN python -m venv /opt/lightship \
 && /opt/lightship/bin/python -m pip install --constraint /build/constraints.txt --find-links /build/wheels \
    "lightship==0.1.0"

RUN LIGHTSHIP_HOME=/opt/lightship-home /opt/lightship/bin/lightship toolchain install vllm \
 && ln -s /opt/lightship-home/toolchains/vllm-* /opt/vllm

FROM python:3.11-slim-bookworm
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ libgomp1 libnuma1 libtcmalloc-minimal4 \
 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 2000 lightship \
 && useradd --uid 2000 --gid 2000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lightship
COPY --from=build /opt/lightship-home /opt/lightship-home
COPY --from=build /opt/vllm /opt/vllm
# An allocator and OpenMP that vLLM's guide for CPUs has loaded first.
ENV LD_PRELOAD=libtcmalloc_minimal.so.4:/opt/vllm/lib/libiomp5.so PYTHONUNBUFFERED=1 HOME=/tmp
USER 2000:2000
WORKDIR /tmp
ENTRYPOINT ["/opt/vllm/bin/python"]
CMD ["-I", "-m", "vllm.entrypoints.openai.api_server", "--help"]
