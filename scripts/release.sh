#!/usr/bin/env bash
# A release of the checked-out commit: version, changelog, tag, and in dist/ a wheel, its source and an SBOM of what it
# needs. It uploads and pushes nothing. `make release VERSION=0.2.0` calls it; BIN is the virtual environment's bin.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?the new version, such as 0.2.0} bin=${BIN:-.venv/bin}
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+([ab]|rc)?[0-9]*$ ]] || { echo "$version is not a version such as 0.2.0" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || { echo "The checkout has changes: commit them first" >&2; exit 1; }
git rev-parse -q --verify "refs/tags/v$version" > /dev/null && { echo "v$version is there already" >&2; exit 1; }

sed -i "s/^version = \".*\"/version = \"$version\"/" pyproject.toml
"$bin/towncrier" build --yes --version "$version"
git add pyproject.toml CHANGELOG.md changes
git commit -q -m "Release $version"
git tag -a "v$version" -m "mastosync $version"

rm -rf dist
BIN=$bin scripts/build.sh dist
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$bin/python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
"$folder/venv/bin/pip" uninstall --quiet --yes pip setuptools
"$bin/cyclonedx-py" environment --output-reproducible --pyproject pyproject.toml \
    --output-file "dist/mastosync_dagster-$version.cdx.json" "$folder/venv/bin/python"
(cd dist && sha256sum -- *.whl *.tar.gz *.cdx.json > SHA256SUMS)
ls -l dist
