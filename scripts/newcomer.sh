#!/usr/bin/env bash
# A new user's way: from a wheel, Mastodon's own file and the destination's settings to the first copied file type, in at
# most ten commands and without an editor. It needs a home folder without an installation: HOME names it.
#   scripts/newcomer.sh mastosync_dagster-0.1.0-py3-none-any.whl /home/mastodon/live/.env.production destination.env
# INSTALLER=uv installs it with uv; otherwise it goes into a virtual environment. INSTALL_OPTIONS go to either, such as
# `-c constraints.txt`.
set -euo pipefail
wheel=$1 production=$2 destination=$3
export PATH="$HOME/venv/bin:$HOME/.local/bin:$PATH"
set -x
if [ "${INSTALLER:-venv}" = uv ]; then
    # shellcheck disable=SC2086  (several options)
    uv tool install ${INSTALL_OPTIONS:-} "$wheel"
else
    "${PYTHON:-python3}" -m venv "$HOME/venv"
    # shellcheck disable=SC2086
    "$HOME/venv/bin/pip" install --quiet --disable-pip-version-check ${INSTALL_OPTIONS:-} "$wheel"
fi
mastosync init --from "$production" --from "$destination"
mastosync check
mastosync sync custom_emojis --limit 5
mastosync ranges custom_emojis
mastosync sync custom_emojis
mastosync status custom_emojis
