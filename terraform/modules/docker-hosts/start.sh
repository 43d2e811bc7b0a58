#!/bin/sh
# Makes a Debian machine a Docker host of Runyard. Runs at every boot, and changes only what is not yet so.
set -eu
export DEBIAN_FRONTEND=noninteractive

if ! command -v dockerd >/dev/null || ! command -v iptables >/dev/null; then
    # Without live-restore a restart of the engine kills every running job.
    mkdir -p /etc/docker
    echo '{"live-restore": true, "log-driver": "local"}' >/etc/docker/daemon.json
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends docker.io iptables python3-venv ca-certificates curl
fi

# The machine's own service account may read these objects, so no credentials are kept here.
fetch() {
    token=$(curl -sSf -H 'Metadata-Flavor: Google' \
        http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')
    name=$(python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1], safe=""))' "$1")
    printf 'header = "Authorization: Bearer %s"\n' "$token" |
        curl -sSf --retry 5 -K - -o "$2" "https://storage.googleapis.com/storage/v1/b/${bucket}/o/$name?alt=media"
}

wanted="${wheel} ${requirements}"
if [ "$(cat /opt/runyard/installed 2>/dev/null)" != "$wanted" ]; then
    download=$(mktemp -d)
    fetch '${requirements}' "$download/requirements.txt"
    fetch '${wheel}' "$download/${basename(wheel)}"
    python3 -m venv --clear /opt/runyard
    /opt/runyard/bin/python -m pip install --quiet --require-hashes -r "$download/requirements.txt"
    /opt/runyard/bin/python -m pip install --quiet --no-deps "$download/${basename(wheel)}"
    rm -r "$download"
    echo "$wanted" >/opt/runyard/installed
fi

mkdir -p /etc/runyard
cat >/etc/runyard/config.yaml <<'CONFIG'
${config}
CONFIG
cat >/etc/systemd/system/runyard.service <<'UNIT'
${unit}
UNIT
systemctl daemon-reload
systemctl enable docker.service runyard.service
systemctl restart docker.service
systemctl restart runyard.service
