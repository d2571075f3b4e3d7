#!/bin/sh
# managed by lightship: rendered from a spec by `lightship deploy`; changes are lost at the next rendering
# Builds every image. PUSH=1 pushes each with a bill of materials (SBOM) and its provenance. Models are read from the
# folders of this machine, or from where MODEL_0, MODEL_1, ... say.
set -eu
cd "$(dirname "$0")"
# The local image store keeps no attestations, so a bill of materials and provenance go with what is pushed.
if [ "${PUSH:-0}" = 1 ]; then
  output="--sbom=true --provenance=true --push"
else
  output="--provenance=false --load"
fi

image() { # REFERENCE DOCKERFILE CONTEXT [OPTIONS]
  reference=$1 file=$2 context=$3
  shift 3
  # shellcheck disable=SC2086 # several options
  docker buildx build $output --tag "$reference" --file "$file" "$@" "$context"
}

image "lightship/gateway:0.1.0" gateway.Dockerfile .
image "lightship/openvino:0.1.0" openvino.Dockerfile .
