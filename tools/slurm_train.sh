#!/usr/bin/env bash
# Train in a Slurm job:
#   GPUS=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options]
# with the options of tools/train.py. GPUS is the total (8), GPUS_PER_NODE (8, or
# all of fewer) and CPUS_PER_TASK (5) say how it is laid out, SRUN_ARGS go to
# srun. Another Python: PYTHON. The processes meet at a port that follows from
# the job's number; another one: PORT.
#
# SRUN_ARGS=--signal=USR1@120 has the run saved and ended 2 minutes before its
# time is over. In a script for sbatch, `#SBATCH --signal=USR1@120` does the
# same; `B:USR1@120` tells the script alone, which would have to pass it on.
set -eu

# What the user has set, for the command to resume with.
TYPED=
for name in GPUS GPUS_PER_NODE CPUS_PER_TASK SRUN_ARGS PYTHON PORT; do
    if [[ -n ${!name+set} ]]; then TYPED+=$(printf '%s=%q ' "$name" "${!name}"); fi
done

if [[ $# -lt 4 ]]; then
    echo "usage: GPUS=8 $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]" >&2
    exit 2
fi

export POSLABEL_MM_COMMAND=${POSLABEL_MM_COMMAND:-$TYPED$(printf '%q ' "$0" "$@")}
# A job that was requeued, after a pre-emption or by hand, goes on.
if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && -e $4/last_checkpoint ]]; then
    set -- "$@" --resume
fi
# shellcheck source=tools/slurm_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_common.sh"
in_slurm "$1" "$2" train.py "$3" --work-dir="$4" --launcher=slurm "${@:5}"
