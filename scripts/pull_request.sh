#!/usr/bin/env bash
# Commit the changes of tracked files on a new branch, push it, and open a pull request with the text of a file.
# In a workflow, with GH_TOKEN. Usage: scripts/pull_request.sh BRANCH TITLE BODY-FILE
set -euo pipefail
cd "$(dirname "$0")/.."

git config user.name "github-actions[bot]"
git config user.email "41898282+github-actions[bot]@users.noreply.github.com"
git switch --create "$1"
git add --update
git commit --message "$2"
gh auth setup-git
git push origin "$1"
gh pr create --base "${GITHUB_REF_NAME:-main}" --head "$1" --title "$2" --body-file "$3"
