#!/usr/bin/env bash
# Train in a Slurm job:
#   GPUS=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options]
# with the options of tools/train.py. GPUS is the total, GPUS_PER_NODE and
# CPUS_PER_TASK say how it is laid out, SRUN_ARGS go to srun. Another Python:
# PYTHON.
set -eu

# What the user has set, for the command to resume with.
TYPED=
for name in GPUS GPUS_PER_NODE CPUS_PER_TASK SRUN_ARGS PYTHON; do
    if [[ -n ${!name+set} ]]; then TYPED+=$(printf '%s=%q ' "$name" "${!name}"); fi
done

if [[ $# -lt 4 ]]; then
    echo "usage: GPUS=8 $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
if [[ ! $GPUS =~ ^[1-9][0-9]*$ || ! $GPUS_PER_NODE =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: GPUS and GPUS_PER_NODE are numbers, at least 1" >&2
    exit 2
fi
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export POSLABEL_MM_COMMAND=${POSLABEL_MM_COMMAND:-$TYPED$(printf '%q ' "$0" "$@")}
# shellcheck disable=SC2086  # SRUN_ARGS are several words
exec srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="$CPUS_PER_TASK" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$TOOLS/train.py" "$CONFIG" \
    --work-dir="$WORK_DIR" --launcher=slurm "${@:5}"
