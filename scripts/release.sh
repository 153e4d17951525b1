#!/usr/bin/env bash
# A release of the checked-out commit: version, changelog, tag, and in dist/ a wheel, its source, the versions that were
# tested, and an SBOM of what the wheel needs. It uploads and pushes nothing. `make release VERSION=0.2.0` calls it; BIN
# is the virtual environment's bin.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?the new version, such as 0.2.0} bin=$(realpath -s "${BIN:-.venv/bin}") checkout=$PWD
# Written as packaging tools write it: they make 0.2.0a0 of 0.2.0a, and files and tag would have two names.
number='(0|[1-9][0-9]*)'
[[ $version =~ ^$number\.$number\.$number(([ab]|rc)$number)?$ ]] \
    || { echo "$version is not a version such as 0.2.0, 0.2.0a1, 0.2.0b1 or 0.2.0rc1" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || { echo "The checkout has changes: commit them first" >&2; exit 1; }
git rev-parse -q --verify "refs/tags/v$version" > /dev/null && { echo "v$version is there already" >&2; exit 1; }

# The commit is made and built in a tree of its own: whatever fails, checkout, tags and dist/ stay as they were.
folder=$(mktemp -d)
trap 'rm -rf "$folder"; git -C "$checkout" worktree prune' EXIT
git worktree add --quiet --detach "$folder/tree"
cd "$folder/tree"
sed -i "s/^version = \".*\"/version = \"$version\"/" pyproject.toml
"$bin/python" -m towncrier build --yes --version "$version"
git add pyproject.toml CHANGELOG.md changes
git commit -q -m "Release $version"

dist=$folder/dist
BIN=$bin scripts/build.sh "$dist"
"$bin/python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check -c constraints.txt "$dist"/*.whl
"$folder/venv/bin/pip" uninstall --quiet --yes pip setuptools
"$bin/python" -m cyclonedx_py environment --output-reproducible --pyproject pyproject.toml \
    --output-file "$dist/mastosync_dagster-$version.cdx.json" "$folder/venv/bin/python"
cp constraints.txt "$dist"
(cd "$dist" && sha256sum -- *.whl *.tar.gz *.cdx.json constraints.txt > SHA256SUMS)

commit=$(git rev-parse HEAD)
cd "$checkout"
git merge --quiet --ff-only "$commit"
rm -rf dist
mv "$dist" dist
git tag -a "v$version" -m "mastosync $version" "$commit"
ls -l dist
