#!/usr/bin/env bash
# Train on several GPUs, or CPU processes where there is no GPU:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT. Another Python:
# PYTHON.
set -eu

# What the user has set, for the command to resume with.
TYPED=
for name in PYTHON NNODES NODE_RANK MASTER_ADDR PORT; do
    if [[ -n ${!name+set} ]]; then TYPED+=$(printf '%s=%q ' "$name" "${!name}"); fi
done

if [[ $# -lt 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py], GPUS at least 1" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export POSLABEL_MM_COMMAND=${POSLABEL_MM_COMMAND:-$TYPED$(printf '%q ' "$0" "$@")}
exec "${PYTHON:-python}" "$TOOLS/torchrun.py" "$GPUS" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
