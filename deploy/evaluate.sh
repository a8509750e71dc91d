#!/usr/bin/env bash
# Fetch a zip of labelled photos (a folder for each class) and judge the service at URL on them.
# It should serve MODEL, the released one unless another is named.
# Usage: URL=https://staging… LABELLED_URL=https://….zip deploy/evaluate.sh
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
curl --fail --silent --show-error --location --output "$folder/labelled.zip" "${LABELLED_URL:?an address of a zip}"
python3 -m zipfile -e "$folder/labelled.zip" "$folder/labelled"
python -m evaluation live --url "${URL:?the address of the service}" --labelled "$folder/labelled" \
  --model "${MODEL:-models/release/model.pt}"
