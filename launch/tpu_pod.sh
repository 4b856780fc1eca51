#!/usr/bin/env bash
# A TPU pod: runs one process on every host of a slice.
#
#   launch/tpu_pod.sh NAME ZONE [main_jax.py arguments…]       run; the same command goes on from the last checkpoint
#   launch/tpu_pod.sh NAME ZONE stop                           finish the step, save, exit 75
#
# Every host needs this folder at the same place, with its .venv, and the workdir on something they share (Filestore,
# or a bucket through gcsfuse). Each host asks its machine's metadata how many there are and where process 0 is; on a
# slice of one host nobody waits for anybody. REMOTE is the folder on the hosts, ~/diffusion unless set.
set -u

(($# >= 2)) || { echo "usage: launch/tpu_pod.sh NAME ZONE [stop | main_jax.py arguments…]" >&2; exit 2; }
name=$1 zone=$2; shift 2
remote=${REMOTE:-'~/diffusion'}

if [[ ${1-} == stop ]]; then
  command='kill -TERM "$(cat ~/.diffusion.pid)"'
else
  # the shell becomes the program, so its number is the program's; the arguments are quoted for the other shell
  command="cd $remote && echo \$\$ >~/.diffusion.pid && exec .venv/bin/python main_jax.py$( (($# > 0)) && printf ' %q' "$@")"
fi
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
