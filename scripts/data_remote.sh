#!/usr/bin/env bash
# Push what dvc.lock names (photos, checkpoint, artefact) to a DVC remote, or pull it from there.
# DVC_REMOTE_URL=s3://bucket/path (or a folder, ssh://…); AWS_ENDPOINT_URL for an S3 service other than Amazon's;
# credentials as for the AWS tools (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile). None is committed.
# Usage: scripts/data_remote.sh push|pull
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:?say push or pull}
url=${DVC_REMOTE_URL:-}
if [ -n "$url" ]; then
  dvc remote add --local --force --default --quiet store "$url"
  case $url in s3://*)
    if [ -n "${AWS_ENDPOINT_URL:-}" ]; then dvc remote modify --local store endpointurl "$AWS_ENDPOINT_URL"; fi
    # Report an unreachable server after half a minute instead of five.
    dvc remote modify --local store connect_timeout 10
    dvc remote modify --local store read_timeout 60
  esac
elif ! dvc remote list | grep -q .; then
  echo "error: no DVC remote is configured. Name one: DVC_REMOTE_URL=s3://bucket/path make data-$what (and" \
    "AWS_ENDPOINT_URL for an S3 service other than Amazon's)." >&2
  exit 2
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if dvc "$what" 2> >(tee "$log" >&2); then
  exit
fi
{
  echo "error: the $what failed. Nothing is lost: files already transferred are kept, and 'make data-$what' resumes from there."
  case $(cat "$log") in
    *InvalidAccessKeyId* | *SignatureDoesNotMatch* | *Forbidden* | *AccessDenied* | *"Unable to locate credentials"* | *"does not exist in our records"*)
      echo "The remote rejects the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY." ;;
    *"Could not connect"* | *"Connection"* | *"timeout"* | *"Timeout"*)
      echo "The remote cannot be reached: check ${AWS_ENDPOINT_URL:-the network} and try again." ;;
    *NoSuchBucket* | *"bucket does not exist"*) echo "The bucket does not exist: check DVC_REMOTE_URL (${url:-.dvc/config})." ;;
    *"missing"*) echo "The remote lacks files that dvc.lock names: run 'make data-push' where they were made." ;;
  esac
} >&2
exit 1
