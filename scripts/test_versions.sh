#!/usr/bin/env bash
# Runs the default tests on the oldest and on the newest JAX that requirements.txt admits, each in its own
# environment under .cache/versions. Arguments go to pytest; PYTHON chooses the interpreter: JAX's newest (0.12) is for
# Python 3.12 and later, and an older Python gets an older one without a word.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
place=.cache/versions
mkdir -p "$place"

# Oldest: the JAX family at its floors; everything else as new as that allows.
sed -nE 's/^(jax|flax|optax|orbax-checkpoint|grain)>=([0-9.]+).*/\1==\2/p' requirements.txt > "$place/oldest.txt"
sed -nE 's/^jax==(.*)/jaxlib==\1/p' "$place/oldest.txt" >> "$place/oldest.txt"
: > "$place/newest.txt"

for which in oldest newest; do
  environment=$place/$which
  [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --upgrade -r requirements-dev.txt -c "$place/$which.txt"
  echo "== $which: $("$environment/bin/python" -m pip freeze | grep -iE '^(jax|flax|optax|orbax-checkpoint|grain)==' | tr '\n' ' ')"
  "$environment/bin/python" -m pytest -q -n 2 --dist loadfile "$@"
done
