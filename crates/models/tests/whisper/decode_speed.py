"""Prints what a decoding step costs transformers with random weights of whisper-base's size: python decode_speed.py THREADS."""

import sys
import time

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

torch.set_num_threads(int(sys.argv[1]))
config = WhisperConfig(
    vocab_size=51865, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
    encoder_ffn_dim=2048, decoder_ffn_dim=2048, decoder_start_token_id=50258, eos_token_id=50257, pad_token_id=50257,
    bos_token_id=50257, suppress_tokens=[50257],
)
model = WhisperForConditionalGeneration(config).eval()
features = torch.randn(8, 80, 3000)
with torch.no_grad():
    model.model.encoder(features[:1])
    start = time.perf_counter()
    model.model.encoder(features[:1])
    print(f"encoder, one window: {(time.perf_counter() - start) * 1e3:.0f} ms")
    for batch in (1, 8):
        def run(tokens):
            start = time.perf_counter()
            model.generate(features[:batch], do_sample=False, num_beams=1, max_new_tokens=tokens, min_new_tokens=tokens)
            return time.perf_counter() - start

        run(1)
        few, many = run(8), run(72)
        print(f"decoder, batch {batch}: {(many - few) / 64 * 1e3:.2f} ms a step")
