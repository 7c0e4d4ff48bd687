#!/usr/bin/env bash
# The test suite, then ruff and mypy, in the environment of run_all.sh. Flags go to pytest: ./run_tests.sh -k masks
# LATEST=1 ./run_tests.sh: with the newest packages that requirements.txt allows. A complaint of ruff or mypy is then a warning.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/env.sh
source scripts/env.sh
make_env requirements.txt requirements-dev.txt

tests=0 lint=0
"$PY" -m pytest "$@" || tests=$?
"$PY" -m ruff check . || lint=1
"$PY" -m mypy . || lint=1

# What other versions of packages make of the types is no fault of this code.
if [ $lint = 1 ] && ! "$PY" scripts/check_lock.py; then
  echo "warning: ruff or mypy complain under packages other than those of $LOCK; this does not fail the tests"
  lint=0
fi
[ $tests = 0 ] || exit $tests
exit $lint
