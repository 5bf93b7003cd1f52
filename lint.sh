#!/usr/bin/env bash
# Format, lint, spelling, types, configuration files, links. `./lint.sh --fix` repairs what it can.
set -euo pipefail
cd "$(dirname "$0")"

[ -e .venv/.stamp-dev ] && [ ! pyproject.toml -nt .venv/.stamp-dev ] || make .venv/.stamp-dev
bin=.venv/bin

if [ "${1:-}" = --fix ]; then
  "$bin/ruff" check --quiet --fix . || true
  "$bin/ruff" format --quiet .
fi

failed=()
step() { # step NAME COMMAND...: all steps run, so that one run shows all that is wrong
  local name=$1 start=$SECONDS
  shift
  if "$@"; then
    printf '%-16s ok    %3d s\n' "$name" $((SECONDS - start))
  else
    printf '%-16s FAIL  %3d s\n' "$name" $((SECONDS - start))
    failed+=("$name")
  fi
}

types() { # converters/ and configs/ are packages of maxmig, so mypy must see them in their places
  local here=$PWD view=.cache/types
  rm -rf "$view/maxmig"
  mkdir -p "$view/maxmig"
  ln -s "$here"/maxmig/* "$here/benchmarks" "$here/converters" "$here/configs" "$view/maxmig/"
  (cd "$view" && "$here/$bin/mypy" --config-file "$here/pyproject.toml" --no-error-summary)
}

step format "$bin/ruff" format --quiet --check .
step ruff "$bin/ruff" check --quiet .
step spelling "$bin/codespell" . .ci
step types types
step repository "$bin/python" .ci/check_repository.py

if [ ${#failed[@]} -gt 0 ]; then
  echo "lint: FAIL: ${failed[*]} (./lint.sh --fix repairs format and simple lint)"
  exit 1
fi
echo "lint: PASS in $SECONDS s"
