#!/usr/bin/env bash
# The whole test suite, in the environment of run_all.sh. Flags go to pytest: ./run_tests.sh -k masks
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/env.sh
source scripts/env.sh
make_env requirements.txt requirements-dev.txt
"$VENV/bin/ruff" check .
"$VENV/bin/mypy" .
exec "$PY" -m pytest "$@"
