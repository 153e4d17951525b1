#!/usr/bin/env bash
# Builds the source distribution and the wheel of the checked-out commit into a folder. The same commit gives the same
# bytes, whoever builds it, where and when:
#   BIN=.venv/bin scripts/build.sh dist
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1") python=$(realpath -s "${BIN:-.venv/bin}")/python
cd "$(dirname "$0")/.."
umask 022
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/tree" "$scratch/source"
# Not from the checkout, whose files have modes and neighbours of their own.
git -c tar.umask=022 archive HEAD | tar -x -C "$scratch/tree"
# setuptools, which writes its version into the wheel, is that of constraints.txt.
PIP_CONSTRAINT=$scratch/tree/constraints.txt "$python" -m build --outdir "$folder" "$scratch/tree"
# setuptools packs the source with the time and the user of this moment.
for packed in "$folder"/*.tar.gz; do
    tar -xzf "$packed" -C "$scratch/source"
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$scratch/source" -c . \
        | gzip -n -9 > "$packed.new"
    mv "$packed.new" "$packed"
done
