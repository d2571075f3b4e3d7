#!/bin/sh
# managed by lightship: rendered from a spec by `lightship deploy`; changes are lost at the next rendering
# Run as root on the box, from this folder. Models are read from the folders they had where this was rendered, or from
# MODEL_0, MODEL_1, ... A second run changes what has changed and starts that again.
set -eu
cd "$(dirname "$0")"

copy_model() { # FROM TO
  if [ -d "$2" ]; then return; fi
  rm -rf "$2.partial"
  mkdir -p "$(dirname "$2")"
  cp -R "$1" "$2.partial"
  chmod -R a+rX "$2.partial"
  mv "$2.partial" "$2"
}

copy_model "${MODEL_0:-/var/lib/variants/fp16}" "/var/lib/lightship-models/storyteller-fp16-aaaaaaaaaaaa"
copy_model "${MODEL_1:-/var/lib/variants/int8}" "/var/lib/lightship-models/storyteller-int8-bbbbbbbbbbbb"
mkdir -p "/etc/lightship/storyteller"
cp -R etc/lightship/. /etc/lightship/
chmod -R a+rX "/etc/lightship/storyteller"
if [ -f "/etc/lightship/storyteller/secrets.env" ]; then chmod 600 "/etc/lightship/storyteller/secrets.env"; fi
cp etc/systemd/system/* /etc/systemd/system/
systemctl daemon-reload
systemctl enable storyteller-fp16.service storyteller-int8.service storyteller-gateway.service storyteller.target
systemctl start storyteller.target
systemctl restart storyteller-fp16.service storyteller-int8.service storyteller-gateway.service
