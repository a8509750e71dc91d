#!/usr/bin/env bash
# Compile requirements/*.in to *.txt with pinned versions and hashes: one set of versions for every Python from 3.11
# and every system, with markers for packages that only some need. Existing pins are kept; `--upgrade` takes the newest.
# torch and torchvision come from different indexes (with or without CUDA), so one hash cannot cover them. Their versions
# are in torch.txt; torch-cuda.txt is a constraints file for the CUDA libraries that CUDA builds of torch depend on.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
# The service uses the static files of flask-swagger-ui and never imports Flask.
flask='^(flask|werkzeug|blinker|itsdangerous)=='
# torch-model-archiver names enum-compat, a source package that is empty for any Python of today.
empty='^enum-compat=='
cuda='^(nvidia-|cuda-|triton==)' torch='^(torch|torchvision)=='
# Each set after the colon extends the one before it at the same versions, because both go into one environment.
for pair in :serve serve:train train:serve-onnx train:dev dev:otel train:ray dev:torchserve dev:browser dev:clients dev:docs; do
  name=${pair#*:} inner=${pair%:*}
  cat "$name.txt" torch.txt torch-cuda.txt >"$name.all" 2>/dev/null || true
  uv pip compile "$@" --quiet --no-python-downloads --universal --fork-strategy fewest --python-version 3.11 \
    --generate-hashes --no-header --no-emit-index-url --no-annotate ${inner:+--constraints "$inner.all"} \
    "$name.in" -o "$name.all"
done
grep -E "$cuda" dev.all | sed 's/ \\$//' >torch-cuda.txt
grep -E "$torch" dev.all | sed 's/ \\$//' >torch.txt
for name in serve train serve-onnx dev otel ray torchserve browser clients docs; do
  left_out="$cuda|$torch|$empty"
  [[ $name != *serve* ]] || left_out="$left_out|$flask"
  awk -v left_out="$left_out" '/^[a-z]/ { keep = $0 !~ left_out } keep' "$name.all" >"$name.txt"
  rm "$name.all"
done
