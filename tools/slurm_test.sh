#!/usr/bin/env bash
# Test in a Slurm job:
#   GPUS=8 tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options]
# with the options of tools/test.py. GPUS is the total, GPUS_PER_NODE and
# CPUS_PER_TASK say how it is laid out, SRUN_ARGS go to srun. Another Python:
# PYTHON.
set -eu

if [[ $# -lt 4 ]]; then
    echo "usage: GPUS=8 $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
CHECKPOINT=$4
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
if [[ ! $GPUS =~ ^[1-9][0-9]*$ || ! $GPUS_PER_NODE =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: GPUS and GPUS_PER_NODE are numbers, at least 1" >&2
    exit 2
fi
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# shellcheck disable=SC2086  # SRUN_ARGS are several words
exec srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="$CPUS_PER_TASK" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" \
    --launcher=slurm "${@:5}"
