# syntax=docker/dockerfile:1
# managed by lightship: rendered from a spec by `lightship deploy`; changes are lost at the next rendering
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /build/constraints.txt
COPY wheels /build/wheels
RUN python -m venv /opt/lightship \
 && /opt/lightship/bin/python -m pip install --constraint /build/constraints.txt --find-links /build/wheels \
    "lightship[local]==0.1.0"

FROM python:3.11-slim-bookworm
RUN groupadd --gid 2000 lightship \
 && useradd --uid 2000 --gid 2000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lightship
COPY --from=build /opt/lightship /opt/lightship
ENV PATH=/opt/lightship/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    LIGHTSHIP_HOME=/var/lib/lightship
RUN install -d -o 2000 -g 2000 /var/lib/lightship
USER 2000:2000
WORKDIR /tmp
ENTRYPOINT ["/opt/lightship/bin/python"]
CMD ["-m", "lightship.engines.openvino"]
