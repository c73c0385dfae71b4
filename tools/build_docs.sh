#!/usr/bin/env bash
# Build the documentation in site/: bash tools/build_docs.sh
# With `serve` it is shown at http://127.0.0.1:8000 and follows changes. MkDocs
# is installed into .venv-docs, or into the folder VENV; a warning is an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/setup_env.sh
setup_env docs "${VENV:-}"
# Material for MkDocs announces its successor at every start.
export NO_MKDOCS_2_WARNING=1
exec "$PYTHON" -m mkdocs "${1:-build}" --strict
