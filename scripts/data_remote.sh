#!/usr/bin/env bash
# Push or pull what dvc.lock names (photos, checkpoint, artefact) to or from the remote that the environment names.
# DVC_REMOTE_URL=s3://bucket/path (or a folder, ssh://…), AWS_ENDPOINT_URL for another S3 than Amazon's; keys as AWS's
# tools take them (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile). Nothing of it is committed.
# Usage: scripts/data_remote.sh push|pull
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:?push or pull}
url=${DVC_REMOTE_URL:-}
if [ -n "$url" ]; then
  dvc remote add --local --force --default --quiet store "$url"
  case $url in s3://*)
    if [ -n "${AWS_ENDPOINT_URL:-}" ]; then dvc remote modify --local store endpointurl "$AWS_ENDPOINT_URL"; fi
    # A server that is away is said after half a minute, not after five.
    dvc remote modify --local store connect_timeout 10
    dvc remote modify --local store read_timeout 60
  esac
elif ! dvc remote list | grep -q .; then
  echo "error: no remote is known. Name one: DVC_REMOTE_URL=s3://bucket/path make data-$what (AWS_ENDPOINT_URL for" \
    "another S3 than Amazon's)." >&2
  exit 2
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if dvc "$what" 2> >(tee "$log" >&2); then
  exit
fi
{
  echo "error: nothing is lost; what was transferred counts, and 'make data-$what' again goes on from there."
  case $(cat "$log") in
    *InvalidAccessKeyId* | *SignatureDoesNotMatch* | *Forbidden* | *AccessDenied* | *"Unable to locate credentials"* | *"does not exist in our records"*)
      echo "The remote does not take the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY." ;;
    *"Could not connect"* | *"Connection"* | *"timeout"* | *"Timeout"*)
      echo "The remote cannot be reached: check ${AWS_ENDPOINT_URL:-the network} and try again." ;;
    *NoSuchBucket* | *"bucket does not exist"*) echo "There is no such bucket: check DVC_REMOTE_URL (${url:-.dvc/config})." ;;
    *"missing"*) echo "The remote does not have everything that dvc.lock names: was it pushed from where it was made?" ;;
  esac
} >&2
exit 1
