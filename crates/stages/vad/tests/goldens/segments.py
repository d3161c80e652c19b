"""Writes segments.json: probabilities of speech and the segments that Silero VAD makes of them.

    pip install silero-vad==6.2.3 torch numpy==2.4.6
    python segments.py > segments.json
"""

import json

import numpy as np
from silero_vad.utils_vad import get_speech_timestamps_from_probs

ODD_CASES, ODD_CHUNKS = 24, 200
rng = np.random.default_rng(20_26)


def runs(*pairs):
    """Noisy runs of (probability, chunks). No value equals a threshold of two decimals, so rounding cannot decide."""
    values = np.concatenate([np.clip(p + 0.08 * rng.standard_normal(n), 0.001, 0.998) for p, n in pairs])
    return [(int(v * 1000) + 0.5) / 1000 for v in values]


def wander(n):
    """Speech and silence at random, with probabilities between the thresholds."""
    pairs = []
    while sum(n for _, n in pairs) < n:
        pairs.append((float(rng.choice([0.05, 0.42, 0.9, 0.95])), int(rng.integers(1, 22))))
    return runs(*pairs)


digit = [(0.03, 12), (0.9, 7), (0.03, 20), (0.9, 9), (0.1, 15)]
sentence = [(0.03, 20), (0.95, 30), (0.1, 4), (0.95, 25), (0.2, 9), (0.95, 40), (0.03, 30)]
breathless = [(0.05, 4), (0.97, 700), (0.05, 30)]
sighing = [(0.05, 4), (0.97, 90), (0.05, 5), (0.97, 60), (0.05, 6), (0.97, 200), (0.05, 5), (0.97, 150), (0.05, 9)]



def odd():
    """Options at random, most of them far from the defaults: no silence needed, wide padding, speech split early."""
    speech, silence, pad = (int(rng.choice([0, rng.integers(0, top)])) for top in (250, 300, 300))
    least = (speech + 2 * pad + 32) / 1000
    return {
        "min_speech_duration_ms": speech,
        "min_silence_duration_ms": silence,
        "speech_pad_ms": pad,
        "max_speech_duration_s": round(least + 4 * float(rng.random()) ** 2, 3),
    }


cases = []
for name, probabilities, options in [
    ("silence", runs((0.05, 50)), {}),
    ("digits, discarded as too short", runs(*digit), {}),
    ("digits, kept", runs(*digit), {"min_speech_duration_ms": 96}),
    ("a sentence", runs(*sentence), {}),
    ("speech from the first chunk to the last", runs((0.95, 80)), {}),
    ("speech at the end, shorter than the shortest", runs((0.05, 20), (0.95, 6)), {}),
    ("silence begun at the end", runs((0.05, 20), (0.95, 40), (0.05, 2)), {}),
    ("neighbours that share the silence between them", runs(*sentence), {"min_silence_duration_ms": 32, "speech_pad_ms": 100, "min_speech_duration_ms": 60}),
    ("a blip between neighbours", runs((0.9, 30), (0.05, 3), (0.9, 2), (0.05, 3), (0.9, 30), (0.05, 20)), {"min_silence_duration_ms": 40, "speech_pad_ms": 200}),
    ("too long, without a silence", runs(*breathless), {"max_speech_duration_s": 5}),
    ("too long, with silences", runs(*sighing), {"max_speech_duration_s": 7, "min_silence_duration_ms": 400}),
    ("too long, with silences and wide padding", runs(*sighing), {"max_speech_duration_s": 7, "min_silence_duration_ms": 400, "speech_pad_ms": 150}),
    ("another threshold", wander(500), {"threshold": 0.7}),
    ("a low threshold", wander(500), {"threshold": 0.1}),
    ("both thresholds", wander(500), {"threshold": 0.6, "neg_threshold": 0.3}),
    ("all defaults but the longest speech", wander(800), {"max_speech_duration_s": 2}),
    ("everything at once", wander(800), {"max_speech_duration_s": 1.5, "min_silence_duration_ms": 300, "speech_pad_ms": 90, "min_speech_duration_ms": 150}),
    ("no padding, no shortest speech", wander(500), {"speech_pad_ms": 0, "min_speech_duration_ms": 0, "min_silence_duration_ms": 0}),
    *((f"odd options, {n}", wander(ODD_CHUNKS), odd()) for n in range(ODD_CASES)),
]:
    # The last chunk is shorter than the others, as the last of a recording is.
    length = len(probabilities) * 512 - int(rng.integers(0, 512))
    segments = get_speech_timestamps_from_probs(probabilities, audio_length_samples=length, **options)
    cases.append({"name": name, "options": options, "length": length, "probabilities": probabilities, "segments": [[s["start"], s["end"]] for s in segments]})

print("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]")
