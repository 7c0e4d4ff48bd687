# shellcheck shell=bash
# Sourced by run_all.sh and run_cxrlt.sh: their arguments, their log, and a stage that Ctrl-C and SIGTERM reach.
#
# A script says  DEMO=0|1  (pick chooses by it) and OUT before it calls start_log.

refuse() { # one line, exit code 2
  echo "error: $1" >&2
  exit 2
}

# The head of a script is its help.
show_help() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$1"; }

# An argument that a script does not have. A setting that is written as a flag: say how it is written.
refuse_argument() {
  local script=$1 given=$2 name value
  name=${given%%=*} name=${name#--}
  case "$given" in *=*) value=${given#*=} ;; *) value=${3:-} ;; esac
  name=$(printf %s "$name" | tr 'a-z-' 'A-Z_')
  case "$given" in
    --[a-z]*)
      if grep -q "^#   $name  " "$script"; then
        refuse "${given%%=*}: settings come from the environment: $name=${value:-…} ./$(basename "$script")"
      fi ;;
  esac
  name=$(sed -n 's/^#   \([A-Z_]*FLAGS\) .*/\1/p' "$script" | paste -s -d / -)
  refuse "unknown argument '$given' (./$(basename "$script") --help lists what there is; flags of a training go into $name)"
}

pick() { if [ "$DEMO" = 1 ]; then echo "$2"; else echo "$1"; fi; } # of the real run, of the demo

say() { echo "== $*"; }

# The log, LOG. Where the output already goes to it (… | tee -a roi-run.log) it is not written a second time, unless that tee
# is gone: Ctrl-C ends it at once, while training still saves its checkpoint and says so.
start_log() {
  local mark
  export PYTHONUNBUFFERED=1
  mark="$1 $(date '+%Y-%m-%d %H:%M:%S'), process $$"
  echo "$mark"
  log_here=1
  for _ in 1 2 3 4 5; do
    if [ -p /dev/stdout ] && grep -qsF "$mark" "$LOG"; then log_here=0; fi
    [ $log_here = 0 ] || sleep 0.1
  done
  [ $log_here = 0 ] || echo "$mark" >> "$LOG"
  exec > >(relay) 2>&1
  relay=$!
  trap 'exec >&- 2>&-; wait "$relay" || :' EXIT
  trap : INT
  trap '[ -z "$stage" ] || kill -TERM "$stage"' TERM
}

relay() {
  trap '' INT TERM PIPE
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    printf '%s\n' "$line" 2> /dev/null || log_here=1
    [ $log_here = 0 ] || printf '%s\n' "$line" >> "$LOG"
  done
}

# Flags of a stage that come from a setting: the name of the setting, and the command. Said before anything is computed.
check_setting() {
  local name=$1
  shift
  "$PY" "$@" --print_config > /dev/null || refuse "$name=${!name} is not taken by $1 (why stands in the line above)"
}

# A stage. Ctrl-C reaches it by itself, SIGTERM is passed on; training then saves a checkpoint, and the script waits for it.
stage=
py() {
  local status
  "$PY" "$@" &
  stage=$!
  while :; do
    status=0
    wait "$stage" || status=$?
    kill -0 "$stage" 2> /dev/null || break
  done
  stage=
  return "$status"
}
