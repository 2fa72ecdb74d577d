#!/usr/bin/env bash
# A fresh volume gets a copy of the project; what is there already stays. Then the command runs in it.
set -euo pipefail
if [ ! -e dvc.yaml ]; then
  cp -r /home/gan/code/. .
fi
exec "$@"
