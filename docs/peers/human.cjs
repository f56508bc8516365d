// The answers of @vladmandic/human's emotion network for crops: node human.cjs CROPS.bin ANSWERS.bin EMOTIONS
const fs = require("fs");
const path = require("path");
const tf = require("@tensorflow/tfjs");
require("@tensorflow/tfjs-backend-wasm");

const [crops, answers, emotions] = process.argv.slice(2);
const names = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"];
const models = path.join(require.resolve("@vladmandic/human"), "../../models");

(async () => {
  await tf.setBackend("wasm");
  await tf.ready();
  const spec = JSON.parse(fs.readFileSync(path.join(models, "emotion.json")));
  const weightData = new Uint8Array(fs.readFileSync(path.join(models, "emotion.bin"))).buffer;
  const weightSpecs = spec.weightsManifest.flatMap((part) => part.weights);
  const model = await tf.loadGraphModel({ load: async () => ({ ...spec, weightSpecs, weightData }) });
  const side = model.inputs[0].shape[2];
  const bytes = new Uint8Array(fs.readFileSync(crops));
  const count = bytes.length / 48 / 48;
  const out = new Float32Array(count * 7);
  const order = emotions.split(",").map((name) => names.indexOf(name));
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    const gray = tf.tensor(Float32Array.from(bytes.subarray(i * 2304, (i + 1) * 2304)), [1, 48, 48, 1]);
    // human: resize, gray of red, green and blue, then (gray / 255 - 0.5) * 2
    const result = tf.tidy(() => model.execute(tf.image.resizeBilinear(gray, [side, side]).div(255).sub(0.5).mul(2)));
    const row = result.dataSync();
    order.forEach((from, to) => { out[i * 7 + to] = row[from]; });
    tf.dispose([gray, result]);
  }
  console.log((performance.now() - start) / count);
  fs.writeFileSync(answers, Buffer.from(out.buffer));
})();
