#!/usr/bin/env bash
# Builds the references of the bundled pipelines from healthy traffic. Takes some minutes with a release build on two cores.
#
#   pipelines/references/build.sh        # DRIFTLINE names the command, by default target/release/driftline
set -euo pipefail
cd "$(dirname "$0")/../.."
driftline=${DRIFTLINE:-target/release/driftline}

# 16 recordings open at once: about 64 sessions in a window of 10 s.
$driftline reference build pipelines/speech.toml --output pipelines/references/speech.json \
    --set sources.microphone.sessions=16 \
    --set 'sources.microphone.repeat={sessions=4700,seed=1,gain_db=3.0,pitch=0.05,noise_dbfs=-65.0}'

# Two cameras, 40 screens in a window of 10 s.
$driftline reference build pipelines/inspect.toml --output pipelines/references/inspect.json \
    --set sources.camera.frames=5120 --set sources.camera.seed=2

# The weeks around the holidays of four years: what differs from year to year, with other customers, is healthy too.
years=()
for year in 2022 2023 2024 2025; do
    years+=(--from "$year-11-12T00:00:00Z" --to "$((year + 1))-01-01T00:00:00Z")
done
$driftline reference build pipelines/recommend.toml --output pipelines/references/recommend.json "${years[@]}" \
    --set sources.shop.start=2022-10-01T00:00:00Z --set sources.shop.days=1188
