#!/usr/bin/env bash
# Builds the reference of the speech pipeline from healthy traffic, then injects one change after the other and prints what the
# monitor says of each. Needs a build (DRIFTLINE names the command). Results stand in pipelines/README.md.
#
#   pipelines/injections.sh [FOLDER]     # reports as JSON go to FOLDER, by default target/injections
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/injections}
driftline=${DRIFTLINE:-target/release/driftline}
mkdir -p "$out"

# 16 recordings open at once: about 66 sessions in a window of 10 s.
traffic() {
    echo --set sources.microphone.sessions=16 \
        --set "sources.microphone.repeat={sessions=$1,seed=$2,gain_db=3.0,pitch=0.05,noise_dbfs=-65.0}"
}

# shellcheck disable=SC2046
$driftline reference build pipelines/speech.toml $(traffic 4700 1) --output "$out/speech.json"

report() {
    local name=$1
    shift
    # shellcheck disable=SC2046
    $driftline report pipelines/speech.toml $(traffic 1200 2) --set "monitor.reference=$out/speech.json" --json "$@" \
        >"$out/$name.json" 2>"$out/$name.log"
    printf '%-40s %s\n' "$name" "$(grep -o '"sentence":"[^"]*"' "$out/$name.json" | head -1)"
}

report "nothing"
for injection in \
    microphone.pitch=1.3 vad.clip_ms=120 asr.weights_noise=0.3 search.stale=0.5 \
    microphone.noise_dbfs=-35 microphone.lowpass_hz=1800 vad.threshold_shift=0.3 search.fuzziness=0 \
    microphone.mulaw_bits=4 microphone.drop=0.05 asr.beam=1; do
    report "$injection" --inject "$injection @ 60s"
done
report microphone.gain_db=-12 --inject "microphone.gain_db=-12 @ 60s over 30s"
