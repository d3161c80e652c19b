"""Makes log_mel.json with transformers' spectrogram: python log_mel.py > log_mel.json"""

import json

import numpy
import transformers
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

time = numpy.arange(2000) / 8000.0
samples = 0.4 * numpy.sin(2 * numpy.pi * (200 + 1200 * time) * time) + 0.2 * numpy.sin(2 * numpy.pi * 2500 * time)
samples = (samples + 0.05 * numpy.random.default_rng(1).standard_normal(2000)).astype(numpy.float32)
filters = mel_filter_bank(
    num_frequency_bins=257,
    num_mel_filters=40,
    min_frequency=60.0,
    max_frequency=3900.0,
    sampling_rate=8000,
    norm=None,
    mel_scale="htk",
)
log_mel = spectrogram(
    samples.astype(numpy.float64),
    window=window_function(200, "hann", periodic=True),
    frame_length=200,
    hop_length=80,
    fft_length=512,
    power=2.0,
    center=False,
    mel_filters=filters,
    mel_floor=1e-10,
    log_mel="log",
)
print(
    json.dumps(
        {
            "reference": f"transformers {transformers.__version__}, numpy {numpy.__version__}",
            "samples": [float(f"{x:.7g}") for x in samples],
            "log_mel": [[float(f"{x:.6g}") for x in row] for row in log_mel.T],
        }
    )
)
