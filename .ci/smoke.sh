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
for verb in demo train eval generate logits "flags show" "flags why" "ckpt inspect" "ckpt convert" \
  "ckpt diff" "parity run" "bench train" doctor; do
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
run 0 ckpt convert "$checkpoint" converted --to nnx
run 0 ckpt diff "$checkpoint" converted
run 4 ckpt inspect no-such-folder
json parity run tiny.yml --checkpoint "$checkpoint"
run 0 parity run tiny.yml --control linen --candidate bridged
json bench train --steps 3 tiny.yml

echo "smoke: PASS: $count commands in $SECONDS s"
