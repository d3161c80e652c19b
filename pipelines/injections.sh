#!/usr/bin/env bash
# Injects one change after the other into the speech pipeline and prints what the monitor says of each, with the reference that ships
# (pipelines/references/build.sh) or the one that REFERENCE names. Needs a build (DRIFTLINE names the command). Results stand in
# pipelines/README.md.
#
#   pipelines/injections.sh [FOLDER]     # reports as JSON go to FOLDER, by default target/injections
#   PROBES=probes.json …                 # asks the probes that `driftline probes record` wrote, every 10 s
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/injections}
driftline=${DRIFTLINE:-target/release/driftline}
reference=${REFERENCE:-pipelines/references/speech.json}
mkdir -p "$out"

# 16 recordings open at once: about 64 sessions in a window of 10 s.
traffic() {
    echo --set sources.microphone.sessions=16 \
        --set "sources.microphone.repeat={sessions=$1,seed=$2,gain_db=3.0,pitch=0.05,noise_dbfs=-65.0}"
}

asked=()
if [ -n "${PROBES:-}" ]; then asked=(--set "monitor.probes.path=$PROBES" --set monitor.probes.every=10s); fi

report() {
    local name=$1
    shift
    # shellcheck disable=SC2046
    $driftline report pipelines/speech.toml $(traffic "${SESSIONS:-800}" 2) --set "monitor.reference=$reference" \
        "${asked[@]}" --json "$@" \
        >"$out/$name.json" 2>"$out/$name.log"
    printf '%-40s %s\n' "$name" "$(grep -o '"sentence":"[^"]*"' "$out/$name.json" | head -1)"
}

report "nothing"
for injection in \
    microphone.pitch=1.3 vad.clip_ms=120 asr.weights_noise=0.5 search.stale=0.5 \
    microphone.noise_dbfs=-35 microphone.lowpass_hz=1800 vad.threshold_shift=0.3 search.fuzziness=0 \
    microphone.mulaw_bits=4 microphone.drop=0.05 asr.beam=1; do
    report "$injection" --inject "$injection @ 60s"
done
report microphone.gain_db=-12 --inject "microphone.gain_db=-12 @ 60s over 30s"
# A second change while the first goes on: it shows in what the alarm says, whose windows are counted on.
SESSIONS=1500 report "two" --inject "microphone.lowpass_hz=1800 @ 60s" --inject "search.stale=0.5 @ 130s"
