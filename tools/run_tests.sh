#!/usr/bin/env bash
# Run the tests at the pinned versions: bash tools/run_tests.sh [PYTEST ARGUMENTS]
# STACK=openmmlab takes the other stack, VENV=DIR an environment elsewhere, and
# `-m slow` the tests that take minutes (docs/reliability.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/setup_env.sh
setup_env "${STACK:-onedl}" "${VENV:-}"
# Every process imports torch and MMPretrain (0.5 GB): four at most.
exec "$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal "$@"
