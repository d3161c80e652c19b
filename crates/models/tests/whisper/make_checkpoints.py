"""Makes the Whisper checkpoints and the golden values that `tests/whisper.rs` compares with.

Reference: transformers 5.23.0, torch 2.15.0, tokenizers 0.23.3 (other versions: check the assertion on versions first).

    pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors
    python make_checkpoints.py                      # rewrites english/, multilingual/ and bare/ beside this file
    python make_checkpoints.py --only bare          # rewrites one of them
    python make_checkpoints.py --save FOLDER        # also writes whole checkpoints with save_pretrained
    python make_checkpoints.py --speech FOLDER      # also transcribes the .wav files of FOLDER (16 kHz, 16 bit)

The weights are random but come from a formula (`uniform`) that the Rust test repeats, so that no weights are committed.
They are scaled so that logits are peaked: the smallest gap between the best and the second token over all goldens is
printed and must exceed 1e-4, ten times the difference between two correct f32 implementations.
"""

import argparse
import json
import math
import pathlib
import wave

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.generation.logits_process import WhisperNoSpeechDetection

HERE = pathlib.Path(__file__).parent
VERSIONS = {
    "transformers": transformers.__version__,
    "torch": torch.__version__.split("+")[0],
    "tokenizers": tokenizers.__version__,
}
MASK = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


def splitmix(x):
    """The output function of SplitMix64, on an array of states."""
    with np.errstate(over="ignore"):
        z = (x + np.uint64(0x9E3779B97F4A7C15)) & MASK
        z = ((z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)) & MASK
        z = ((z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)) & MASK
        return z ^ (z >> np.uint64(31))


def uniform(seed, count):
    """`count` values of [-1, 1) with 24 bits each: exact in f32."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((splitmix(state) >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0).astype(np.float32)


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFF_FFFF_FFFF_FFFF
    return h


def audio(seed, samples):
    """Tones of 100 ms with pauses, and noise: the same samples, bit for bit, in Rust."""
    i = np.arange(samples, dtype=np.uint64)
    with np.errstate(over="ignore"):
        h = splitmix(np.uint64(seed * 1_000_003) + i // np.uint64(1600))
    frequency = np.uint64(80) + h % np.uint64(2900)
    amplitude = np.where((h >> np.uint64(32)) % np.uint64(4) == 0, 0.0, ((h >> np.uint64(40)) % np.uint64(256)).astype(np.float64) / 512)
    phase = (i * frequency % np.uint64(16000)).astype(np.float64) / 16000
    triangle = 4 * np.abs(phase - 0.5) - 1
    noise = uniform(seed * 7_919 + 1, samples).astype(np.float64) / 64
    return (amplitude * triangle + noise).astype(np.float32)


def special_tokens():
    languages = ["en", "zh", "de", "es", "fr"]
    names = ["<|endoftext|>", "<|startoftranscript|>"] + [f"<|{l}|>" for l in languages]
    return names + ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]


def make_tokenizer():
    """Byte-level BPE with the bytes and 44 merges, then Whisper's special tokens in Whisper's order.

    The 1,501 timestamp tokens follow in the model's vocabulary but are not listed, as in the first published checkpoints.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    merges = []
    for pair in "t h|th e|i n|a n|o u|e r|an d|Ġ the|Ġ and|o n|in g|a t|e n|Ġ t|Ġ a|Ġ s|Ġ w|o r|e s|l l".split("|"):
        left, right = pair.split(" ")
        merges.append((left, right))
        vocab[left + right] = len(vocab)
    assert all(a in vocab and b in vocab for a, b in merges)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in special_tokens()])
    return tokenizer


def make_model(name, tokenizer):
    ids = {t: tokenizer.token_to_id(t) for t in special_tokens()}
    vocab_size = ids["<|notimestamps|>"] + 1 + 1501
    english = name != "multilingual"
    common = dict(
        vocab_size=vocab_size,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        begin_suppress_tokens=[tokenizer.token_to_id("Ġ"), ids["<|endoftext|>"]],
    )
    if english:
        config = WhisperConfig(
            num_mel_bins=80, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=192, **common,
        )
    else:
        config = WhisperConfig(
            num_mel_bins=128, d_model=48, encoder_layers=1, decoder_layers=3, encoder_attention_heads=3,
            decoder_attention_heads=2, encoder_ffn_dim=160, decoder_ffn_dim=128, **common,
        )
    model = WhisperForConditionalGeneration(config).eval()
    g = model.generation_config
    if name == "bare":  # what save_pretrained writes for a model nobody gave Whisper's generation settings
        g.begin_suppress_tokens = common["begin_suppress_tokens"]
        return filled(name, model, ids["<|endoftext|>"])
    g.no_timestamps_token_id = ids["<|notimestamps|>"]
    g.max_initial_timestamp_index = 50 if english else 1500
    g.suppress_tokens = [1, 2, 7, 8, 9] + [ids[t] for t in special_tokens()[1:-1] if t != "<|nospeech|>"]
    g.begin_suppress_tokens = common["begin_suppress_tokens"]
    g.prev_sot_token_id = ids["<|startofprev|>"]
    g.is_multilingual = not english
    g.max_length = 448
    g.return_timestamps = False
    if not english:
        g.lang_to_id = {t: i for t, i in ids.items() if len(t) == 6}
        g.task_to_id = {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}
        g.forced_decoder_ids = [[1, None], [2, ids["<|transcribe|>"]]]
    return filled(name, model, ids["<|endoftext|>"])


def filled(name, model, eos):
    seed = fnv1a(name)
    with torch.no_grad():
        for key, parameter in model.state_dict().items():
            if key == "proj_out.weight":  # tied with the token embedding
                continue
            parameter.copy_(torch.from_numpy(weights(seed, key, tuple(parameter.shape), eos)))
    return model


def weights(seed, key, shape, eos):
    count = math.prod(shape)
    u = uniform(seed ^ fnv1a(key), count)
    if key.endswith("layer_norm.weight"):
        return (np.float32(1) + np.float32(0.125) * u).reshape(shape)
    if key.endswith(".bias"):
        return (np.float32(0.125) * u).reshape(shape)
    if key.endswith("embed_tokens.weight"):
        # Text rows are long, timestamps short (there are 1,501 of them), the end of text longest: sequences end.
        row = np.arange(shape[0])
        gain = np.where(row == eos, 1.5, np.where(row < eos, 0.625, 0.375)).astype(np.float32)
        return u.reshape(shape) * gain[:, None]
    if "embed_positions" in key:
        return u.reshape(shape)
    gain = 2.0 if "q_proj" in key or "k_proj" in key else 3.0
    scale = np.float32(gain / math.sqrt(math.prod(shape[1:])))
    return (scale * u).reshape(shape)


class Recorder:
    """Keeps what `generate` decides inside: log-probabilities, no-speech probabilities, the smallest gap of the argmax."""

    def __init__(self, model):
        self.model, self.gap = model, math.inf
        self.average, self.no_speech = [], []
        inner = model._retrieve_avg_logprobs
        inner_need = model._need_fallback

        def average(scores, tokens, temperature):
            for step in scores[: len(tokens)]:
                best = torch.topk(step, 2).values
                if torch.isfinite(best[1]):
                    self.gap = min(self.gap, float(best[0] - best[1]))
            value = inner(scores, tokens, temperature)
            self.average.append(float(value))
            return value

        def need(sequence, outputs, index, processors, *rest):
            for detector in processors or []:
                if isinstance(detector, WhisperNoSpeechDetection):
                    self.no_speech.append(float(detector.no_speech_prob[index]))
            return inner_need(sequence, outputs, index, processors, *rest)

        model._retrieve_avg_logprobs, model._need_fallback = average, need


def case(model, extractor, clips, timestamps, language=None, log_prob=-1000.0, no_speech=0.999, max_new_tokens=None):
    """One call of `generate` on each clip (long ones cannot share a batch without changing their features)."""
    rows = []
    for clip in clips:
        long = len(clip) > 480_000
        features = extractor(
            clip, sampling_rate=16_000, return_tensors="pt",
            **({"truncation": False, "padding": "longest"} if long else {}),
        ).input_features
        recorder = Recorder(model)
        model.generation_config.max_new_tokens = max_new_tokens
        out = model.generate(
            features, do_sample=False, num_beams=1, temperature=0.0, return_timestamps=timestamps or long, language=language,
            return_segments=True, logprob_threshold=log_prob, no_speech_threshold=no_speech,
            force_unique_generate_call=False,
        )
        del model._retrieve_avg_logprobs, model._need_fallback
        assert recorder.gap > 1e-4, recorder.gap
        segments = out["segments"][0]
        rows.append({
            "tokens": [int(t) for s in segments for t in s["tokens"]],
            "segments": [[round(float(s["start"]) * 1000), round(float(s["end"]) * 1000), len(s["tokens"])] for s in segments],
            "windows_average_log_prob": [round(x, 5) for x in recorder.average],
            "windows_no_speech": [float(f"{x:.5g}") for x in recorder.no_speech],
            "gap": recorder.gap,
        })
    return rows


def sampled(array, count=499):
    flat = np.asarray(array, dtype=np.float32).reshape(-1)
    index = [int(i) for i in np.linspace(0, flat.size - 1, count)]
    return {"index": index, "value": [float(f"{flat[i]:.7g}") for i in index]}


def read_wav(path):
    with wave.open(str(path)) as f:
        assert (f.getframerate(), f.getnchannels(), f.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(f.readframes(f.getnframes()), dtype="<i2").astype(np.float32) / 32768


def shapes(model):
    return {k: list(v.shape) for k, v in model.state_dict().items() if k != "proj_out.weight"}


def build(name, save, speech):
    tokenizer = make_tokenizer()
    model = make_model(name, tokenizer)
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    targets = [folder] + ([pathlib.Path(save) / name] if save else [])
    for target in targets:
        target.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(target)
        model.generation_config.save_pretrained(target)
        extractor.save_pretrained(target)
        (target / "tokenizer.json").write_text(tokenizer.to_str())
    if save:
        model.save_pretrained(targets[1])

    seconds = [(1, 3.0), (2, 8.5), (3, 30.0), (4, 0.4), (5, 17.25)]
    clips = [audio(s, int(t * 16_000)) for s, t in seconds]
    long = [(6, 47.3), (7, 64.0)]
    long_clips = [audio(s, int(t * 16_000)) for s, t in long]
    cases = []

    def add(label, clips_of, timestamps, **options):
        chosen = [audio(s, int(t * 16_000)) for s, t in clips_of]
        rows = case(model, extractor, chosen, timestamps, **options)
        cases.append({"label": label, "clips": clips_of, "timestamps": timestamps, **options, "rows": rows})
        print(name, label, [len(r["tokens"]) for r in rows], "gap", min(r["gap"] for r in rows), "first", rows[0]["tokens"][:8],
              "avg", [r["windows_average_log_prob"][:2] for r in rows][:2], "nospeech", [r["windows_no_speech"][:2] for r in rows][:2], flush=True)

    if name == "bare":
        add("plain", seconds, False, max_new_tokens=60, no_speech=None)
        golden = {"versions": VERSIONS, "tensors": shapes(model), "cases": cases}
        (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
        return
    add("plain", seconds, False)
    add("timestamps", seconds, True)
    add("long", long, True)
    add("short output", seconds[:2], False, max_new_tokens=7)
    averages = [w for r in cases[1]["rows"] for w in r["windows_average_log_prob"]]
    silent = [w for r in cases[1]["rows"] for w in r["windows_no_speech"]]
    add("no speech", seconds, True, log_prob=float(np.median(averages)), no_speech=float(np.median(silent)))
    if name == "multilingual":
        add("german", seconds[:3], False, language="de")
        add("french timestamps", seconds[:3], True, language="fr")

    features = extractor(clips[1], sampling_rate=16_000, return_tensors="pt").input_features
    long_features = extractor(long_clips[0], sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest").input_features
    with torch.no_grad():
        encoded = model.model.encoder(features).last_hidden_state
    golden = {
        "versions": VERSIONS,
        "tensors": shapes(model),
        "features": sampled(features[0]),
        "long_features": {"frames": long_features.shape[-1], **sampled(long_features[0])},
        "encoder": sampled(encoded[0]),
        "cases": cases,
    }
    if speech:
        files = sorted(pathlib.Path(speech).glob("*.wav"))
        for timestamps in (False, True):
            rows = case(model, extractor, [read_wav(f) for f in files], timestamps)
            golden[f"speech_{'timestamps' if timestamps else 'plain'}"] = [{"file": f.name, **r} for f, r in zip(files, rows)]
            print(name, "speech", [len(r["tokens"]) for r in rows], min(r["gap"] for r in rows))
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--save")
    parser.add_argument("--speech")
    parser.add_argument("--only", nargs="*", default=["english", "multilingual", "bare"])
    arguments = parser.parse_args()
    expected = {"transformers": "5.23.0", "torch": "2.15.0", "tokenizers": "0.23.3"}
    assert VERSIONS == expected, f"golden values come from {expected}, found {VERSIONS}"
    torch.set_num_threads(1)
    for checkpoint in arguments.only:
        build(checkpoint, arguments.save, arguments.speech)
