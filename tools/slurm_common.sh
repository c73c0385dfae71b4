# Sourced by slurm_train.sh and slurm_test.sh, which say what is set where.
#   in_slurm PARTITION JOB_NAME SCRIPT [arguments of the script]
in_slurm() {
    local gpus=${GPUS:-8} gpus_per_node tools name
    for name in GPUS GPUS_PER_NODE; do
        if [[ ! ${!name:-8} =~ ^[1-9][0-9]*$ ]]; then
            echo "usage: $name=${!name} is no number from 1 on" >&2
            exit 2
        fi
    done
    # No node has to have more than there are in all.
    gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    # The tasks are not this machine's processes: Slurm ends them with srun.
    unset POSLABEL_MM_PARENT
    # shellcheck disable=SC2086  # SRUN_ARGS are several words
    exec srun -p "$1" \
        --job-name="$2" \
        --gres="gpu:$gpus_per_node" \
        --ntasks="$gpus" \
        --ntasks-per-node="$gpus_per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$tools/$3" "${@:4}"
}
