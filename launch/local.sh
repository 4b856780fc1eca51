#!/usr/bin/env bash
# Runs N processes of one program on this machine:  launch/local.sh N [main_jax.py arguments…]
#
# Each has its own CPU devices: JAX_NUM_CPU_DEVICES of them, 1 unless that is set. Process 0 speaks here; what the
# others say goes to files in a temporary folder, and is shown if they fail. SIGTERM, SIGINT and SIGUSR1 go on to all
# of them. Once one has failed the others have GRACE seconds (60) to end by themselves before they are killed.
# Exit status: that of the process that failed first, else 0.
#
# PYTHON, MAIN and PORT may be set: the interpreter, the program, the coordinator's port (a free one is looked for).
set -u

usage() { echo "usage: launch/local.sh N [main_jax.py arguments…], N processes of at least 1" >&2; exit 2; }
[[ ${1-} =~ ^[1-9][0-9]*$ ]] || usage
count=$1; shift

home=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$home/.venv/bin/python}
[[ -x $python ]] || python=$(command -v "${PYTHON:-python3}") || { echo "launch/local.sh: no Python; set PYTHON" >&2; exit 2; }
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
said=$(mktemp -d "${TMPDIR:-/tmp}/local.XXXXXX")
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-1}

pids=()
trap 'for pid in $(jobs -p); do kill -KILL "$pid" 2>/dev/null; done' EXIT # nobody is left behind
trap 'for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done' TERM
trap 'for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null; done' INT
trap 'for pid in "${pids[@]}"; do kill -USR1 "$pid" 2>/dev/null; done' USR1

start() { # process number, then the program's arguments
  local process=$1; shift
  set -m # a group of its own: a Ctrl-C at the terminal reaches it once, through the trap
  if ((process == 0)); then
    "$python" "${MAIN:-$home/main_jax.py}" "$@" &
  else
    "$python" "${MAIN:-$home/main_jax.py}" "$@" >"$said/process_$process.txt" 2>&1 &
  fi
  pids[process]=$!
  set +m
  echo "${pids[process]}" >"$said/process_$process.pid"
}

for ((i = 0; i < count; i++)); do
  start "$i" "$@" --config.cluster.coordinator="127.0.0.1:$port" --config.cluster.processes="$count" \
    --config.cluster.process="$i"
done
[[ -n ${PIDS-} ]] && printf '%s\n' "${pids[@]}" >"$PIDS" # for tests: who they are

first=0 deadline=0 ended=0
status=()
while ((ended < count)); do
  for ((i = 0; i < count; i++)); do
    [[ -n ${status[i]-} ]] && continue
    if ! kill -0 "${pids[i]}" 2>/dev/null; then
      wait "${pids[i]}"; status[i]=$?; ended=$((ended + 1))
      if ((status[i] != 0 && first == 0)); then
        first=${status[i]} deadline=$((SECONDS + ${GRACE:-60}))
      fi
    elif ((deadline > 0 && SECONDS >= deadline)); then
      echo "launch/local.sh: process $i did not end within ${GRACE:-60} s of the first failure: killed" >&2
      kill -KILL "${pids[i]}"
    fi
  done
  sleep 0.1
done

for ((i = 1; i < count; i++)); do
  if ((status[i] != 0)); then
    echo "--- process $i ended with ${status[i]} and said ($said/process_$i.txt):" >&2
    tail -n 60 "$said/process_$i.txt" >&2
  fi
done
((first == 0)) && rm -rf "$said"
exit "$first"
