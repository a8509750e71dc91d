#!/usr/bin/env bash
# Fetch a zip of labelled photos (one folder per class) and evaluate the service at URL on them.
# The service must run MODEL, by default the released one.
# Usage: URL=https://staging… LABELLED_URL=https://….zip deploy/evaluate.sh
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
curl --fail --silent --show-error --location --output "$folder/labelled.zip" "${LABELLED_URL:?set it to the address of a zip with one folder of photos per class}"
python3 -m zipfile -e "$folder/labelled.zip" "$folder/labelled"
python -m evaluation live --url "${URL:?set it to the address of the service}" --labelled "$folder/labelled" \
  --model "${MODEL:-models/release/model.pt}"
