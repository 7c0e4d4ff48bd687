# shellcheck shell=bash
# Sourced by run_all.sh and run_tests.sh: make_env FILE... puts the requirements into $VENV, again only if they changed.
VENV=${VENV:-.venv}
PY="$VENV/bin/python"

make_env() {
  if [ ! -x "$PY" ] || ! "$PY" -m pip --version > /dev/null 2>&1; then
    echo "environment: creating $VENV"
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed (set PYTHON=/path/to/python3)" >&2; exit 2; }
    "${PYTHON:-python3}" -m venv --clear "$VENV"
  fi
  local file stamp
  for file in "$@"; do
    stamp="$VENV/.installed-$file"
    if ! cmp -s "$file" "$stamp"; then
      echo "environment: installing $file"
      "$PY" -m pip install --quiet --disable-pip-version-check -r "$file"
      cp "$file" "$stamp"
    fi
  done
}
