#!/usr/bin/env bash
# Makes the recordings in voice-search: queries in voices that the bundled recogniser was not
# trained on, at the rates, depths and channel counts that microphones and phones deliver.
# Needs espeak-ng, flite, festival (voice ked_diphone) and sox. The result is committed.
set -euo pipefail
cd "$(dirname "$0")/voice-search"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

espeak() { espeak-ng -v "$1" -s "$2" -w "$work/raw.wav" "$3"; }
with_flite() { flite -voice "$1" -t "$2" -o "$work/raw.wav"; }
with_festival() { festival -b "(voice_$1)" "(utt.save.wave (SayText \"$2\") \"$work/raw.wav\" 'riff)" >/dev/null 2>&1; }
# finish FILE SOX-OUTPUT-OPTIONS -- SOX-EFFECTS: pads with half a second of silence on both sides.
finish() {
    local file=$1; shift
    local format=()
    while [ "$1" != -- ]; do format+=("$1"); shift; done
    shift
    sox -R -G "$work/raw.wav" "${format[@]}" "$file" pad 0.5 0.6 "$@"
}

espeak en-us+m5 150 "red jacket";                    finish red-jacket.wav -r 16000 -b 16 -c 1 --
with_flite rms "wireless headphones";                finish wireless-headphones.flac -r 48000 -b 24 -c 2 --
espeak en-gb+f4 150 "show me winter tyres";          finish winter-tyres.mp3 -r 44100 -c 2 -C 96 --
with_flite rms "electric kettle";                    finish electric-kettle.ogg -r 22050 -c 1 --
espeak en-us+linda 140 "blue running shoes";         finish blue-running-shoes.wav -r 8000 -b 16 -c 1 --
with_flite rms "find a wooden desk";                 finish wooden-desk.wav -r 22050 -b 32 -e float -c 1 --
espeak en-gb-scotland+david 145 "acoustic guitar";   finish acoustic-guitar.flac -r 32000 -b 16 -c 1 --
with_festival ked_diphone "black coffee maker";      finish black-coffee-maker.wav -r 11025 -b 16 -c 1 --
espeak en-us-nyc+anika 145 "large garden hose";      finish garden-hose.ogg -r 48000 -c 2 --
with_flite rms "teddy bear";                         finish teddy-bear.mp3 -r 16000 -c 1 -C 48 --
# Two queries with a pause, and one under noise.
espeak en-us+m5 150 "green sleeping bag"; cp "$work/raw.wav" "$work/a.wav"
espeak en-us+m5 150 "yoga mat";           cp "$work/raw.wav" "$work/b.wav"
sox -R -G "$work/a.wav" "$work/raw.wav" pad 0 0.9; mv "$work/raw.wav" "$work/c.wav"
sox -R -G "$work/c.wav" "$work/b.wav" "$work/raw.wav"
finish two-queries.flac -r 16000 -b 16 -c 1 --
with_flite rms "silver laptop"
sox -R -G "$work/raw.wav" -r 16000 -b 16 -c 1 "$work/clean.wav" pad 0.5 0.6
sox -R "$work/clean.wav" "$work/noise.wav" synth brownnoise gain -32
sox -R -m -v 0.9 "$work/clean.wav" -v 0.9 "$work/noise.wav" -b 16 noisy-laptop.wav
