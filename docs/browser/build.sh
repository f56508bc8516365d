#!/usr/bin/env bash
# The page with what it needs, in a folder: build.sh FOLDER [MODEL ...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
models=${FER_NB_MODELS:-$here/../../models}
out=$1 && shift
mkdir -p "$out/ort" "$out/models"
cp "$here"/*.html "$here"/*.js "$out/"
for model in face_short face_full "${@:-mobilenet_v3}"; do cp "$models/$model.onnx" "$out/models/"; done
packed=$(mktemp -d)
trap 'rm -rf "$packed"' EXIT
(cd "$packed" && npm pack --silent onnxruntime-web@1.30.0 > /dev/null && tar xzf *.tgz)
cp "$packed"/package/dist/ort.wasm.min.mjs "$packed"/package/dist/ort-wasm-simd-threaded.{mjs,wasm} "$out/ort/"
