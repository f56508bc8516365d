// The answers of @vladmandic/face-api for crops: node face_api.cjs CROPS.bin ANSWERS.bin EMOTIONS
const fs = require("fs");
const path = require("path");
const tf = require("@tensorflow/tfjs");
require("@tensorflow/tfjs-backend-wasm");
const faceapi = require("@vladmandic/face-api/dist/face-api.node-wasm.js");

const [crops, answers, emotions] = process.argv.slice(2);
const names = ["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"];

(async () => {
  await tf.setBackend("wasm");
  await tf.ready();
  const net = faceapi.nets.faceExpressionNet;
  await net.loadFromDisk(path.join(require.resolve("@vladmandic/face-api/package.json"), "../model"));
  const bytes = new Uint8Array(fs.readFileSync(crops));
  const count = bytes.length / 48 / 48;
  const out = new Float32Array(count * 7);
  const order = emotions.split(",").map((name) => names.indexOf(name));
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    const gray = tf.tensor(Float32Array.from(bytes.subarray(i * 2304, (i + 1) * 2304)), [1, 48, 48, 1]);
    const rgb = tf.concat([gray, gray, gray], 3);
    const result = await net.forward(rgb);
    const row = result.dataSync();
    order.forEach((from, to) => { out[i * 7 + to] = row[from]; });
    tf.dispose([gray, rgb, result]);
  }
  console.log((performance.now() - start) / count);
  fs.writeFileSync(answers, Buffer.from(out.buffer));
})();
