#!/usr/bin/env bash
# Compile requirements/*.in to pinned *.txt; present pins are kept, `--upgrade` takes the newest.
# The CUDA libraries that the package index's torch brings go to torch-cuda.txt, a constraints file: they
# are pinned where they are installed, and a CPU build of torch (TORCH_INDEX) installs without them.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
for name in serve train dev; do
  cat "$name.txt" torch-cuda.txt >"$name.all"
  uv pip compile "$@" --quiet --no-header --no-emit-index-url --no-annotate --python-version 3.11 \
    "$name.in" -o "$name.all"
done
grep -E '^(nvidia-|cuda-|triton)' dev.all >torch-cuda.txt
for name in serve train dev; do
  grep -vE '^(nvidia-|cuda-|triton)' "$name.all" >"$name.txt"
  rm "$name.all"
done
