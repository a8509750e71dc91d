#!/usr/bin/env bash
# Compile requirements/*.in to pinned *.txt with hashes, one set of versions for every Python from 3.11 and every
# system (markers say what only some need); present pins are kept, `--upgrade` takes the newest.
# torch and torchvision come from different indexes (with CUDA, without), so their files have no one hash: they are
# pinned in torch.txt, and the CUDA libraries that torch brings where it is built for CUDA in torch-cuda.txt, a
# constraints file.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
# The service takes files of flask-swagger-ui, and nothing that imports Flask.
flask='^(flask|werkzeug|blinker|itsdangerous)=='
cuda='^(nvidia-|cuda-|triton)' torch='^(torch|torchvision)=='
# Each adds to the set before the colon, and changes none of its versions: they are installed over one another.
for pair in :serve serve:train train:dev train:ray dev:browser dev:docs; do
  name=${pair#*:} inner=${pair%:*}
  cat "$name.txt" torch.txt torch-cuda.txt >"$name.all" 2>/dev/null || true
  uv pip compile "$@" --quiet --no-python-downloads --universal --fork-strategy fewest --python-version 3.11 \
    --generate-hashes --no-header --no-emit-index-url --no-annotate ${inner:+--constraints "$inner.all"} \
    "$name.in" -o "$name.all"
done
grep -E "$cuda" dev.all | sed 's/ \\$//' >torch-cuda.txt
grep -E "$torch" dev.all | sed 's/ \\$//' >torch.txt
for name in serve train dev ray browser docs; do
  left_out="$cuda|$torch"
  [ "$name" != serve ] || left_out="$left_out|$flask"
  awk -v left_out="$left_out" '/^[a-z]/ { keep = $0 !~ left_out } keep' "$name.all" >"$name.txt"
  rm "$name.all"
done
