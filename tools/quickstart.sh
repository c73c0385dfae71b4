#!/usr/bin/env bash
# Train a small ViT on real digits, without and with positional labels:
#   bash tools/quickstart.sh [--seeds 0 1] [--epochs N] [--jobs N] [--work-dir DIR] [--force]
# Installs into .venv what is missing, then needs about four minutes on two
# CPU cores. STACK=openmmlab takes the other stack, VENV=DIR an environment
# elsewhere. After an interrupt the same command resumes.
set -euo pipefail
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

POSLABEL_MM_COMMAND=${POSLABEL_MM_COMMAND:-$(printf '%q ' bash "$0" "$@")}
export POSLABEL_MM_COMMAND
. "$TOOLS/setup_env.sh"
setup_env "${STACK:-onedl}" "${VENV:-}"
exec "$PYTHON" "$TOOLS/quickstart.py" "$@"
