#!/usr/bin/env bash
# Fetch a zip of labelled photos (one folder per class) and evaluate the service at URL on them.
# The service must run MODEL, by default the released one. Exits like `python -m evaluation live`: 0 if every gate passes,
# 1 if one fails, 3 if there are too few photos to tell. As a CI step it writes the output `verdict`, and too few photos
# are a warning: a person decides.
# Usage: URL=https://staging… LABELLED_URL=https://….zip deploy/evaluate.sh
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
curl --fail --silent --show-error --location --output "$folder/labelled.zip" "${LABELLED_URL:?set it to the address of a zip with one folder of photos per class}"
python3 -m zipfile -e "$folder/labelled.zip" "$folder/labelled"
status=0
python -m evaluation live --url "${URL:?set it to the address of the service}" --labelled "$folder/labelled" \
  --model "${MODEL:-models/release/model.pt}" || status=$?
if [ -n "${GITHUB_OUTPUT:-}" ]; then
  case $status in
    0) echo "verdict=passes" >>"$GITHUB_OUTPUT" ;;
    3)
      echo "verdict=too few photos to tell" >>"$GITHUB_OUTPUT"
      echo "::warning::The labelled photos of staging are too few to show that the service is right: label more, or decide yourself."
      status=0
      ;;
  esac
fi
exit "$status"
