#!/usr/bin/env bash
# Builds the references of the bundled pipelines from healthy traffic. Takes a minute or two with a release build on two cores.
#
#   pipelines/references/build.sh        # DRIFTLINE names the command, by default target/release/driftline
set -euo pipefail
cd "$(dirname "$0")/../.."
driftline=${DRIFTLINE:-target/release/driftline}

# 16 recordings open at once: about 64 sessions in a window of 10 s.
$driftline reference build pipelines/speech.toml --output pipelines/references/speech.json \
    --set sources.microphone.sessions=16 \
    --set 'sources.microphone.repeat={sessions=4700,seed=1,gain_db=3.0,pitch=0.05,noise_dbfs=-65.0}'
