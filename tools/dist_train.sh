#!/usr/bin/env bash
# Train on several GPUs, or CPU processes where there is no GPU:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT. Another Python:
# PYTHON.
set -eu

if [[ $# -lt 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py], GPUS at least 1" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export POSLABEL_MM_COMMAND=${POSLABEL_MM_COMMAND:-$(printf '%q ' "$0" "$@")}
exec "${PYTHON:-python}" "$TOOLS/torchrun.py" "$GPUS" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
