#!/usr/bin/env bash
# Two hosts whose link is cut in mid-run:  make test-hosts   (root, Linux network namespaces, minutes)
#
# Two namespaces with a cable between them, a process in each. The cable is cut: both must end by themselves, with a
# status other than 0, soon after the heartbeat. The cable is mended: the same command must go on from a whole
# checkpoint to the same end as a run that was never disturbed.
set -u
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-$PWD/.venv/bin/python} heartbeat=10 patience=60
a=diffusion-a-$$ b=diffusion-b-$$ folder=$(mktemp -d) pids=()

fail() { echo "two hosts: $*" >&2; tail -n 5 "$folder"/*.txt >&2; exit 1; }

clean() {
  ((${#pids[@]})) && kill -KILL "${pids[@]}" 2>/dev/null
  ip netns delete "$a" 2>/dev/null; ip netns delete "$b" 2>/dev/null
  rm -rf "/etc/netns/$a" "/etc/netns/$b" "$folder"
}

ip netns add "$a" || { echo "two hosts: this machine allows no network namespaces (root is needed); nothing was tested" >&2; exit 2; }
trap clean EXIT
ip netns add "$b" && ip link add veth0 netns "$a" type veth peer name veth0 netns "$b" || fail "no cable"
for host in "$a 10.77.0.1" "$b 10.77.0.2"; do
  read -r space address <<<"$host"
  ip -n "$space" address add "$address/24" dev veth0 && ip -n "$space" link set veth0 up && ip -n "$space" link set lo up
  mkdir -p "/etc/netns/$space" && printf '10.77.0.1 host0\n10.77.0.2 host1\n' >"/etc/netns/$space/hosts"
done

export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 REPO=$PWD
unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy
mapfile -t tiny < <("$python" -c 'import sys; from pathlib import Path; from tests.tiny import arguments
print(*arguments(Path(sys.argv[1]), train__steps=sys.argv[2]), sep="\n")' "$folder/run" "${STEPS:-200}")
# every event of a long run would take its time; steps are what is wanted
tiny+=(--config.eval.metrics='()' --config.sample.every=0 --config.val.every=0 --config.checkpoint.every=20)

start() { # both hosts; gloo listens at the address of the host's own name
  pids=()
  for process in 0 1; do
    space=$([[ $process == 0 ]] && echo "$a" || echo "$b")
    ip netns exec "$space" unshare --uts sh -c "hostname host$process; exec \"\$@\"" sh "$python" main_jax.py "${tiny[@]}" "$@" \
      --config.cluster.{coordinator=10.77.0.1:1234,processes=2,process=$process,heartbeat=$heartbeat} \
      >"$folder/$process.txt" 2>&1 &
    pids+=($!)
  done
}

steps() { find "$1/checkpoints" -mindepth 1 -maxdepth 1 -name '[0-9]*' -printf '%f\n' 2>/dev/null | grep -xE '[0-9]+' | sort -n; }

start
for _ in {1..3000}; do [[ -n $(steps "$folder/run" | sed -n 2p) ]] && break; sleep 0.1; done
[[ -n $(steps "$folder/run" | sed -n 2p) ]] || fail "no checkpoint came"
ip -n "$a" link set veth0 down
cut=$SECONDS
for process in 0 1; do
  while kill -0 "${pids[process]}" 2>/dev/null; do
    ((SECONDS - cut < heartbeat + patience)) || fail "process $process still waits $((SECONDS - cut)) s after the cut"
    sleep 0.2
  done
  wait "${pids[process]}" && fail "process $process ended with 0"
  echo "two hosts: process $process ended with $? within $((SECONDS - cut)) s of the cut (heartbeat $heartbeat s)"
done
newest=$(steps "$folder/run" | tail -n 1)
ip -n "$a" link set veth0 up
cp -r "$folder/run" "$folder/alone"

start
for process in 0 1; do wait "${pids[process]}" || fail "process $process did not go on"; done
went_on=$(grep -m 1 'Going on from step' "$folder/0.txt") || fail "it did not go on"
echo "two hosts: $went_on (newest checkpoint after the cut: $newest)"

JAX_NUM_CPU_DEVICES=2 "$python" main_jax.py "${tiny[@]}" --workdir="$folder/alone" >"$folder/2.txt" 2>&1 || fail "one process did not go on"
"$python" - "$folder" <<'END' || fail "the mended run and one process's differ"
import sys
from pathlib import Path
import numpy as np
from tests.tiny import log
two, one = (log(Path(sys.argv[1]) / name) for name in ("run", "alone"))
assert [list(line) for line in two] == [list(line) for line in one]
for line, like in zip(two, one):
    np.testing.assert_allclose([*map(float, line.values())], [*map(float, like.values())], rtol=1e-5, err_msg=str(line["step"]))
print(f"two hosts: {len(two)} lines of the log equal one process's to 1e-5")
END
