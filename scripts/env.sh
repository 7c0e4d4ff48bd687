# shellcheck shell=bash
# Sourced by run_all.sh and run_tests.sh: make_env FILE... puts the requirements into $VENV, again only where they changed.
#
#   VENV=DIR     the environment (.venv; with LATEST=1 .venv-latest): made here, or one that is there, whoever made it (venv, uv, a link)
#   LATEST=1     the newest packages that requirements.txt allows, instead of the versions of constraints.txt, which were tested
#   PYTHON=EXE   the Python that makes the environment (python3)
LATEST=${LATEST:-0}
if [ "$LATEST" = 0 ]; then VENV=${VENV:-.venv}; else VENV=${VENV:-.venv-latest}; fi
PY="$VENV/bin/python"
LOCK=constraints.txt

refuse_env() {
  echo "error: $1" >&2
  exit 2
}

make_env() {
  local python=${PYTHON:-python3} file stamp
  # Only a folder that was begun here (it carries the mark) or holds nothing is written to; what else a folder holds is somebody's.
  if ! "$PY" -c '' 2> /dev/null; then
    if [ -e "$VENV" ] && [ ! -e "$VENV/.made-by-roi" ] && [ -n "$(ls -A "$VENV" 2> /dev/null || echo file)" ]; then
      refuse_env "$VENV is there and holds no Python that runs ($PY); name another folder with VENV=DIR, or move it away"
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null \
      || refuse_env "Python 3.10 or newer is needed, and $python is not; set PYTHON=/path/to/python3"
    echo "environment: creating $VENV"
    mkdir -p "$VENV"
    touch "$VENV/.made-by-roi"
    "$python" -m venv "$VENV" || refuse_env "$python cannot make an environment (on Debian: apt install python3-venv)"
  fi
  "$PY" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || refuse_env "$PY is older than Python 3.10; name another folder with VENV=DIR"
  for file in "$@"; do
    stamp="$VENV/.installed-$file"
    if [ "$LATEST" != 0 ]; then
      echo "environment: the newest packages that $file allows, into $VENV"
      install_with --upgrade -r "$file"
    elif ! cat "$LOCK" "$file" | cmp -s - "$stamp"; then
      echo "environment: installing $file into $VENV, versions of $LOCK"
      install_with -r "$file" -c "$LOCK"
      cat "$LOCK" "$file" > "$stamp"
    fi
  done
}

# pip of the environment; uv where the environment has none (uv makes them so), else Python's own copy of pip.
install_with() {
  if "$PY" -m pip --version > /dev/null 2>&1; then
    "$PY" -m pip install --quiet --disable-pip-version-check "$@"
  elif command -v uv > /dev/null; then
    uv pip install --quiet --python "$PY" "$@"
  else
    "$PY" -m ensurepip > /dev/null 2>&1 || refuse_env "$VENV has no pip, and neither uv nor ensurepip is at hand; install one of them, or name another folder with VENV=DIR"
    "$PY" -m pip install --quiet --disable-pip-version-check "$@"
  fi
}
