#!/usr/bin/env bash
# Test on several GPUs, or CPU processes where there is no GPU:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT. Another Python:
# PYTHON.
set -eu

if [[ $# -lt 3 || ! $3 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of tools/test.py], GPUS at least 1" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec "${PYTHON:-python}" "$TOOLS/torchrun.py" "$GPUS" \
    "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
