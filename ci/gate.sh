#!/usr/bin/env bash
# Gate a change on this machine: ci/gate.sh BASE CANDIDATE [MANIFEST] [OPTION ...]
#
# Everything that judges comes from one revision, BASE unless $GATE_HARNESS names another: the harness, the manifest with
# its policy, the waivers and the official baselines. Only iroot/ comes from BASE and CANDIDATE. A change can therefore not
# relax its own gate; for the same reason a CI job should run the base branch's copy of this script.
#
# Writes junit.xml, comment.md and result.json into $GATE_OUT (default: benchmark_results/gate). $GATE_STORE names the
# store (default: in $GATE_OUT); a runner that keeps it keeps its qualification. Options are those of `iroot bench gate`.
# The exit code is the gate's: 0 passed, 1 failed, 2 wrong use, 3 undecided, 4 not measured.
set -euo pipefail

if (($# < 2)); then
  echo "usage: ci/gate.sh BASE CANDIDATE [MANIFEST] [OPTION ...]" >&2
  exit 2
fi
repository=$(git rev-parse --show-toplevel)
commit() { git -C "$repository" rev-parse --verify --quiet "$1^{commit}" || { echo "error: no such revision: $1" >&2; return 2; }; }
base=$(commit "$1") || exit 2
candidate=$(commit "$2") || exit 2
judge=$(commit "${GATE_HARNESS:-$base}") || exit 2
manifest=${3:-quick}
shift $(($# < 3 ? $# : 3))

out=${GATE_OUT:-$repository/benchmark_results/gate}
mkdir -p "$out"
out=$(cd "$out" && pwd)
store=$(realpath -m "${GATE_STORE:-$out/iroot.duckdb}")
scratch=$(mktemp -d)
cleanup() {
  git -C "$repository" worktree remove --force "$scratch/judge" 2>/dev/null || true
  rm -rf "$scratch"
  git -C "$repository" worktree prune
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
git -C "$repository" worktree add --quiet --detach "$scratch/judge" "$judge"

cd "$scratch/judge"
# -P: neither the current folder nor an installed checkout may come before the sources that judge.
PYTHONPATH="$scratch/judge" "${PYTHON:-python3}" -P -m harness bench gate "$base" "$candidate" "$manifest" \
  --store "$store" --junit "$out/junit.xml" --markdown "$out/comment.md" --json "$@" >"$out/result.json"
