#!/usr/bin/env bash
# Make, or bring up to date, a virtual environment with one stack at its pinned
# versions, with MMDetection on the onedl stack (mmdet), or with what builds the
# documentation (docs). Running it again is cheap, and resumes after an interrupt.
# Of two that run at once, the later one waits (where there is flock: Linux).
#
#   bash tools/setup_env.sh [onedl|openmmlab|mmdet|docs] [DIR]   prints its python last
#   . tools/setup_env.sh; setup_env STACK [DIR]                  sets PYTHON to it

setup_env() {
    local stack=$1 root dir constraints stamp want lock steps=4
    local -a included
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ ! -f "$root/setup.py" ]; then
        echo "error: ${0##*/} sets up an environment for a checkout of the repository, and" \
            "$root is none: clone it, or use the environment that the package is installed in" \
            "(python $root/tools/quickstart.py)" >&2
        return 1
    fi
    dir=${2:-}
    [ -n "$dir" ] || case $stack in
        onedl) dir=$root/.venv ;;
        *) dir=$root/.venv-$stack ;;
    esac
    case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
    constraints=$root/requirements/constraints-$stack.txt
    [ "$stack" != docs ] || constraints=$root/requirements/docs.txt steps=2
    included=("$root/requirements/constraints-common.txt")
    [ "$stack" != mmdet ] || included+=("$root/requirements/constraints-onedl.txt") steps=5
    if [ ! -f "$constraints" ]; then
        echo "error: no stack '$stack': choose onedl, openmmlab, mmdet or docs" >&2
        return 1
    fi
    lock=$dir/setup.lock
    # The lock is the first file that a set-up makes.
    if [ -e "$dir" ] && [ ! -f "$dir/pyvenv.cfg" ] && [ -n "$(ls -A "$dir")" ] &&
        [ ! -f "$lock" ]; then
        echo "error: $dir is not a virtual environment: name another folder" >&2
        return 1
    fi

    # Written last, so an interrupted install is taken up again.
    stamp=$dir/poslabel_mm.stamp
    want="$stack $root $(cat "$constraints" "${included[@]}" "$root/setup.py" \
        "$root/poslabel_mm/stack/stacks.py" | cksum)"
    if ! is_ready; then
        has_pip || find_python >/dev/null || return 1
        if ! { mkdir -p "$dir" && : >>"$lock"; } 2>/dev/null; then
            echo "error: cannot write into $dir: name another folder" >&2
            return 1
        fi
        # In a subshell, so that what the caller starts later does not hold the lock. Its pip does:
        # one that outlives a killed set-up is still at work in the folder.
        (
            wait_for_turn
            is_ready || make_environment
        ) 9>>"$lock" || return 1
    fi
    PYTHON=$dir/bin/python
}

# What follows reads setup_env's variables.

is_ready() {
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && "$dir/bin/python" -c '' 2>/dev/null
}

has_pip() {
    "$dir/bin/python" -m pip --version >/dev/null 2>&1
}

# Locks file descriptor 9 for as long as a process holds it open.
wait_for_turn() {
    local status=0
    command -v flock >/dev/null || return 0
    flock -n 9 2>/dev/null || status=$?
    # Any other status: the file system has no locks.
    if [ "$status" = 1 ]; then
        echo "another set-up is at work in $dir: waiting for it" >&2
        flock 9
    fi
}

make_environment() {
    local python
    if ! has_pip; then
        python=$(find_python) || return 1
        echo "[1/$steps] virtual environment in $dir, $("$python" --version)"
        "$python" -m venv "$dir" || return 1
    fi
    rm -f "$stamp"
    if [ "$stack" = docs ]; then
        pip_step "$dir" "[2/2] MkDocs" -r "$constraints" || return 1
    else
        install_stack || return 1
    fi
    echo "$want" >"$stamp"
}

# What setup_env installs of a stack.
install_stack() {
    pip_step "$dir" "[2/$steps] torch and torchvision" -c "$constraints" torch torchvision || return 1
    pip_step "$dir" "[3/$steps] MMPretrain ($stack), tools and tests" \
        -c "$constraints" -e "$root[$stack,tools,test]" || return 1
    # The stack asks for opencv-python and the tools for opencv-python-headless.
    # Both own the folder cv2: the one written last serves, and only the headless
    # one does without libGL and the X libraries.
    pip_step "$dir" "[4/$steps] OpenCV without display libraries" \
        -c "$constraints" --force-reinstall --no-deps opencv-python-headless || return 1
    [ "$stack" != mmdet ] || build_operators || return 1
    "$dir/bin/python" -c 'import cv2, poslabel_mm' && compile_modules
}

# On all cores, where pip compiles on one. Left to the first import, modules would be compiled
# by every process under PYTHONDONTWRITEBYTECODE, which images of containers often set.
compile_modules() {
    "$dir/bin/python" -m compileall -qq -j 0 "$dir/lib" >/dev/null || true # some are templates
}

# MMCV's operators, which MMDetection needs: pip's own build, which sees no torch,
# leaves them out. MAX_JOBS, where it is set, limits the compilers side by side.
build_operators() {
    # They are built once for each version of MMCV and of torch.
    ! "$dir/bin/python" -c 'import poslabel_mm, mmcv.ops' 2>/dev/null || return 0
    PATH=$dir/bin:$PATH pip_step "$dir" "[5/5] MMCV's operators: about 14 minutes on two cores" \
        -c "$constraints" --force-reinstall --no-deps --no-build-isolation --no-cache-dir \
        --no-binary onedl-mmcv onedl-mmcv || return 1
    "$dir/bin/python" -c 'import poslabel_mm, mmcv.ops'
}

# Prints the first Python that will do.
find_python() {
    local candidate without_venv=
    # 3.11 first: the pinned versions were tried with it.
    for candidate in python3.11 python3 python3.12 python3.13 python3.10 python; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue
        if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -n "$without_venv" ]; then
        echo "error: $without_venv has no venv and ensurepip modules:" \
            "install them (Debian, Ubuntu: apt install python3-venv)" >&2
    else
        echo "error: no Python >= 3.10 on PATH: install one (3.11 is the one tried)" >&2
    fi
    return 1
}

# pip_step DIR TITLE ARGUMENTS...: pip install, its latest line beside the title
# on a terminal, all of its output in DIR/setup.log. Modules are left to compile_modules.
pip_step() {
    local dir=$1 title=$2 log=$1/setup.log status
    shift 2
    echo "$title"
    "$dir/bin/python" -m pip install --disable-pip-version-check --no-compile "$@" 2>&1 | tee "$log" |
        while IFS= read -r line; do
            if [ -t 1 ]; then printf '\r\033[K    %.70s' "$line"; fi
        done
    status=${PIPESTATUS[0]}
    if [ -t 1 ]; then printf '\r\033[K'; fi
    if [ "$status" -ne 0 ]; then
        grep -v '^WARNING' "$log" | tail -n 8 >&2
        echo "error: installing failed, all of it is in $log; run the same command again" \
            "to resume" >&2
        return 1
    fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    setup_env "${1:-onedl}" "${2:-}" && echo "$PYTHON"
fi
