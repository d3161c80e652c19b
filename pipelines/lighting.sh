#!/usr/bin/env bash
# Changes the light of the inspection pipeline, once as the lamp of the generated camera and once as the exposure of photographs of
# magnetic tiles, and prints what the monitor says. Needs a build (DRIFTLINE names the command), and for the tiles DRIFTLINE_DATA and
# weights of exposures 1 to 3 (TILES). Results stand in pipelines/inspect.md.
#
#   pipelines/lighting.sh [FOLDER]     # references and reports go to FOLDER, by default target/lighting
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/lighting}
driftline=${DRIFTLINE:-target/release/driftline}
pipeline=pipelines/inspect.toml
mkdir -p "$out"

# Reports on a run with a reference, and prints the first sentence.
report() {
    local name=$1 reference=$2
    shift 2
    $driftline report $pipeline --set "monitor.reference=$out/reference-$reference.json" --json "$@" >"$out/$name.json" 2>"$out/$name.log"
    printf '%-36s %s\n' "$name" "$(grep -o '"sentence":"[^"]*"' "$out/$name.json" | head -1)"
}

# One generated camera: 20 screens in a window of 10 s, 256 windows of the reference, then six before the change and twelve after it.
screens=(--set sources.camera.cameras=1)
$driftline reference build $pipeline "${screens[@]}" --set sources.camera.frames=5120 --set sources.camera.seed=1 --output "$out/reference-screens.json"
screens+=(--set sources.camera.frames=360 --set sources.camera.seed=2)
report "screens, nothing" screens "${screens[@]}"
report "screens, camera.light=0.6" screens "${screens[@]}" --inject 'camera.light=0.6 @ 60s'
report "screens, inspection.odds_shift=3" screens "${screens[@]}" --inject 'inspection.odds_shift=3 @ 60s'

if [[ -z ${DRIFTLINE_DATA:-} || -z ${TILES:-} ]]; then
    echo "skipped: the tiles, without DRIFTLINE_DATA and TILES"
    exit
fi

# Links so many photographs of these exposures, drawn without regard to the tile, in an order that a seed gives.
photographs() {
    local folder=$1 name=$2 count=$3 exposures=$4 seed=$5 i=0
    mkdir -p "$folder"
    local files=("$(realpath "$DRIFTLINE_DATA")"/inspection/magnetic-tile/*/exp[$exposures]_*.jpg)
    # Photographs are as good a source of randomness as any, and everybody has the same.
    printf '%s\n' "${files[@]}" | shuf --repeat --head-count="$count" --random-source=<(tail -qc +$((1000 + seed)) "${files[@]}") |
        while read -r file; do
            i=$((i + 1))
            ln -s "$file" "$(printf '%s/%s%05d.jpg' "$folder" "$name" $i)"
        done
}

tiles() {
    echo --set 'sources.camera={kind="image-files",camera="line",every="1s"}' --set "sources.camera.path=$out/$1" --set "stages.inspection.model=$TILES"
}

# Photographs, 10 in a window: 256 windows of the reference, then six before the change and twelve after it.
rm -rf "$out/healthy" "$out/same" "$out/brighter"
photographs "$out/healthy" a 2560 123 1
photographs "$out/same" a 180 123 2
photographs "$out/brighter" a 60 123 3
photographs "$out/brighter" b 120 56 4
# shellcheck disable=SC2046
$driftline reference build $pipeline $(tiles healthy) --output "$out/reference-tiles.json"
# shellcheck disable=SC2046
report "tiles, exposures 1 to 3" tiles $(tiles same)
# shellcheck disable=SC2046
report "tiles, exposures 5 and 6 after 60 s" tiles $(tiles brighter)
