#!/usr/bin/env bash
# Installs the peers of the experiments, each in a virtual environment of its own because their
# requirements exclude one another, into DRIFTLINE_PEERS or benches/peers/environments.
set -euo pipefail
cd "$(dirname "$0")"
folder="${DRIFTLINE_PEERS:-environments}"
python="${PYTHON:-python3.11}"
for peer in river alibi nannyml dowhy implicit; do
    [ -x "$folder/$peer/bin/pip" ] || "$python" -m venv "$folder/$peer"
    "$folder/$peer/bin/pip" install --quiet --requirement "requirements-$peer.txt"
done
