#!/usr/bin/env bash
# Runs every verb once on a tiny model: .ci/smoke.sh MAXMIG, the command to test (a path or a name).
# Works in a folder of its own, so that nothing of a checkout is picked up by chance.
set -euo pipefail

maxmig=$(command -v "${1:?usage: smoke.sh MAXMIG}")
maxmig=$(cd "$(dirname "$maxmig")" && pwd)/$(basename "$maxmig")
python=$(dirname "$maxmig")/python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat > tiny.yml <<'YAML'
# A model that compiles in seconds.
run_name: linen
decoder_block: llama2
base_emb_dim: 16
base_num_query_heads: 2
base_num_kv_heads: 1
base_mlp_dim: 32
base_num_decoder_layers: 2
head_dim: 8
vocab_size: 512
dtype: float32
per_device_batch_size: 2
max_target_length: 32
steps: 3
checkpoint_period: 2
max_prefill_predict_length: 8
YAML
nnx=(enable_nnx=true pure_nnx=true pure_nnx_decoder=true)

count=0
run() { # run CODE VERB...: the verb must end with the exit code
  local expected=$1 code=0 start=$SECONDS
  shift
  "$maxmig" "$@" > out.txt 2> err.txt < /dev/null || code=$?
  if [ "$code" -ne "$expected" ]; then
    printf 'FAIL  maxmig %s\n      exit code %s, expected %s; output:\n' "$*" "$code" "$expected"
    tail -n 40 out.txt err.txt
    exit 1
  fi
  count=$((count + 1))
  printf 'ok  %3d s  maxmig %s\n' $((SECONDS - start)) "$*"
}
json() { # json VERB...: as run 0, and stdout must be one JSON document
  run 0 "$@" --json
  "$python" -c 'import json; json.load(open("out.txt", encoding="utf-8"))'
}

"$maxmig" --version
run 0 --help
for verb in demo train eval generate logits lint doctor "flags show" "flags why" "flags lint" \
  "flags plan" "flags apply" "flags rollback" "flags graduate" "flags log" "ckpt inspect" \
  "ckpt convert" "ckpt diff" "ckpt verify" "ckpt hash" "ckpt map" "ckpt explain" "parity run" \
  "parity localize" "parity noise" "parity record" "parity compare" "parity explain" \
  "parity selftest" "parity init" "bench train" "bench convert" "bench parity"; do
  read -ra words <<< "$verb"
  run 0 "${words[@]}" --help
  [ "$(grep -c '^  maxmig ' out.txt)" -ge 2 ] || { echo "FAIL  $verb --help: no two examples"; exit 1; }
done
run 2 trainn
run 2 train missing-equals.yml steps
json doctor

json flags show tiny.yml
run 0 flags show tiny.yml "${nnx[@]}"
run 0 flags why steps tiny.yml
run 2 flags show tiny.yml pure_nnx=true
run 2 train tiny.yml stepz=3

run 0 train tiny.yml
run 0 train tiny_mixtral run_name=experts steps=2 load_balance_loss_weight=0.01 "${nnx[@]}"
run 0 parity run tiny_mixtral load_balance_loss_weight=0.01 --level L0 --level L2 --steps 2 --run-dir experts
run 0 train tiny.yml "${nnx[@]}" steps=5 # flags flipped: the same directory, no rewrite
checkpoint=maxmig_output/linen/checkpoints
json eval tiny.yml --steps 2
run 0 eval tiny.yml --checkpoint "$checkpoint" --steps 2 "${nnx[@]}"
run 0 generate tiny.yml --prompt "The " --tokens 4
run 0 generate tiny.yml --checkpoint "$checkpoint" --prompt "The " --tokens 4 "${nnx[@]}"

"$python" - <<'PY'
import numpy as np

tokens = np.random.default_rng(0).integers(0, 256, (2, 17), dtype=np.int32)
np.savez("in.npz", inputs=tokens[:, :-1], targets=tokens[:, 1:])
PY
run 0 logits tiny.yml --checkpoint "$checkpoint" --inputs in.npz --output linen.npz
run 0 logits tiny.yml --checkpoint "$checkpoint" --inputs in.npz --output nnx.npz \
  --gradients gradients.npz "${nnx[@]}"
"$python" - <<'PY'
import numpy as np

linen, nnx, gradients = np.load("linen.npz"), np.load("nnx.npz"), np.load("gradients.npz")
assert linen["logits"].shape == (2, 16, 512) and linen["logits"].dtype == np.float32
np.testing.assert_array_equal(linen["logits"], nnx["logits"])
assert linen["loss"] == nnx["loss"] and np.isfinite(linen["loss"])
assert "decoder/layers/mlp/wi_0/kernel" in gradients, list(gradients)
PY

json ckpt inspect "$checkpoint"
run 0 ckpt convert "$checkpoint" converted --to nnx --dry-run
run 0 ckpt convert "$checkpoint" converted --to nnx
run 0 ckpt convert "$checkpoint" apart --to linen --no-scan --dtype bfloat16 --max-memory 256MiB
run 0 ckpt verify converted --against "$checkpoint"
run 0 ckpt verify apart --against "$checkpoint"
run 0 ckpt diff "$checkpoint" converted
run 1 ckpt diff "$checkpoint" apart
json ckpt hash "$checkpoint"
run 0 ckpt map "$checkpoint" --to nnx --show
run 0 ckpt explain "$checkpoint" decoder/decoder_norm/scale --to nnx
run 4 ckpt inspect no-such-folder

json parity run tiny.yml --checkpoint "$checkpoint" --steps 2 --run-dir parity
run 0 parity run tiny.yml --candidate bridged --level L0 --run-dir bridged
run 0 parity record tiny.yml --steps 1 -o recorded
run 0 parity compare recorded --candidate nnx
run 0 parity noise tiny.yml -o noise.json
run 1 parity localize tiny.yml --bug epsilon
run 0 parity selftest --bugs epsilon --side candidate
run 0 parity explain norm-promotion

cat > pair.py <<'PY'
import flax.linen as nn
import jax.numpy as jnp
from flax import nnx


def make():
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    return nn.Dense(5), nnx.Linear(4, 5, rngs=nnx.Rngs(0)), (x,)
PY
run 0 parity run --pair pair:make --run-dir pair
run 0 parity localize --pair pair:make
mkdir theirs
run 0 parity init --pair pair:make --dir theirs

cp tiny.yml rollout.yml
run 0 flags plan --to nnx --direct rollout.yml -o plan.json
run 5 flags apply plan.json
run 0 flags apply plan.json --card parity
json flags show rollout.yml
json flags log
run 0 flags lint rollout.yml
run 0 flags graduate rollout.yml --dry-run
run 0 lint pair.py

json bench train --quick tiny.yml
run 0 bench convert --sizes 4 --repeats 1

echo "smoke: PASS: $count commands in $SECONDS s"
