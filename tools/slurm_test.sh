#!/usr/bin/env bash
# Test in a Slurm job:
#   GPUS=8 tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options]
# with the options of tools/test.py. GPUS is the total (8), GPUS_PER_NODE (8, or
# all of fewer) and CPUS_PER_TASK (5) say how it is laid out, SRUN_ARGS go to
# srun. Another Python: PYTHON. Another port than that of the job's number: PORT.
set -eu

if [[ $# -lt 4 ]]; then
    echo "usage: GPUS=8 $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]" >&2
    exit 2
fi

# shellcheck source=tools/slurm_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/slurm_common.sh"
in_slurm "$1" "$2" test.py "$3" "$4" --launcher=slurm "${@:5}"
