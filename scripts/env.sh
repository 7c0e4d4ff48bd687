# shellcheck shell=bash
# Sourced by run_all.sh and run_tests.sh: make_env FILE... puts the requirements into $VENV, again only where they changed.
#
#   VENV=DIR     the environment (.venv; with LATEST=1 .venv-latest): made here, or one that is there, whoever made it (venv, uv, a link)
#   LATEST=1     the newest packages that requirements.txt allows, instead of the versions of constraints.txt, which were tested
#   PYTHON=EXE   the Python that makes the environment (python3)
#   TORCH=cpu    PyTorch for the CPU, from its own index; cuda: as PyPI gives it. Neither: cpu where there is no NVIDIA driver and the
#                index answers, else PyPI. What the installer says stands in $VENV/install.log
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
      choose_torch
      echo "environment: the newest packages that $file allows, into $VENV"
      install_with --upgrade -r "$file" || refuse_install "$file"
    elif ! cat "$LOCK" "$file" | cmp -s - "$stamp"; then
      choose_torch
      echo "environment: installing $file into $VENV, versions of $LOCK; how far it is: tail -f $VENV/install.log"
      install_with -r "$file" -c "$LOCK" || refuse_install "$file"
      cat "$LOCK" "$file" > "$stamp"
    fi
  done
}

# uv where it is at hand, else pip of the environment, else Python's own copy of pip. Its words go to install.log.
install_with() {
  local log="$VENV/install.log"
  if command -v uv > /dev/null; then
    uv pip install --python "$PY" "$@" > "$log" 2>&1
    return
  fi
  if ! "$PY" -m pip --version > /dev/null 2>&1; then
    "$PY" -m ensurepip > /dev/null 2>&1 || refuse_env "$VENV has no pip, and neither uv nor ensurepip is at hand; install one of them, or name another folder with VENV=DIR"
  fi
  "$PY" -m pip install --disable-pip-version-check "$@" > "$log" 2>&1
}

refuse_install() {
  grep -vi '^warning\|^$' "$VENV/install.log" | tail -n 5 >&2
  refuse_env "$1 could not be installed into $VENV; all of it stands in $VENV/install.log. The same command goes on"
}

# PyTorch without CUDA, a tenth of the size, where nothing could use it. A version that is there stays.
CPU_INDEX=https://download.pytorch.org/whl/cpu
choose_torch() {
  local kind=${TORCH:-} torch torchvision
  case "$kind" in "" | cpu | cuda) ;; *) refuse_env "TORCH=$kind: it is cpu, cuda, or not set" ;; esac
  if "$PY" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torch"))' 2> /dev/null; then return; fi
  if [ "$kind" = cpu ] || { [ -z "$kind" ] && lacks_nvidia && reaches_cpu_index; }; then
    torch=$(locked_version torch) torchvision=$(locked_version torchvision)
    echo "environment: PyTorch ${torch:-(the newest)} for the CPU, about 0.2 GB to fetch from ${CPU_INDEX%/whl*} (TORCH=cuda takes PyPI's)"
    if install_with "torch${torch:+==$torch+cpu}" "torchvision${torchvision:+==$torchvision+cpu}" --index-url "$CPU_INDEX"; then return; fi
    [ -z "$kind" ] || refuse_install "TORCH=cpu"
    echo "environment: that index does not give it; PyPI is asked"
  fi
  case "$(uname -sm)" in
    "Linux x86_64") echo "environment: PyTorch as PyPI gives it, with CUDA: about 3 GB to fetch, 7 GB on the disk" ;;
    *) echo "environment: PyTorch as PyPI gives it: about 0.2 GB to fetch" ;;
  esac
}

lacks_nvidia() { [ "$(uname -s)" = Linux ] && [ ! -e /proc/driver/nvidia ] && ! command -v nvidia-smi > /dev/null; }

# One question, two seconds at most: where that network is closed nothing is lost.
reaches_cpu_index() {
  timeout 3 "$PY" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2).close()' "$CPU_INDEX/torch/" 2> /dev/null
}

locked_version() { [ "$LATEST" != 0 ] || sed -n "s/^$1==\([^ ;+]*\).*/\1/p" "$LOCK" | head -n 1; }
