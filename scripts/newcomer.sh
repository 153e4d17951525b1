#!/usr/bin/env bash
# A new user's way: from a wheel, Mastodon's own file and the destination's settings to the first copied file type, in
# nine commands and without an editor. It needs a home folder without an installation: HOME names it.
#   scripts/newcomer.sh mastosync_dagster-0.1.0-py3-none-any.whl /home/mastodon/live/.env.production destination.env
# PIP_OPTIONS go to `pip install`, such as `-c constraints.txt`.
set -euxo pipefail
wheel=$1 production=$2 destination=$3

"${PYTHON:-python3}" -m venv "$HOME/venv"
# shellcheck disable=SC2086  (several options)
"$HOME/venv/bin/pip" install --quiet --disable-pip-version-check ${PIP_OPTIONS:-} "$wheel"
export PATH="$HOME/venv/bin:$PATH"
mastosync init --from "$production" --from "$destination"
mastosync check
mastosync sync custom_emojis --limit 5
mastosync ranges custom_emojis
mastosync sync custom_emojis
mastosync status custom_emojis
