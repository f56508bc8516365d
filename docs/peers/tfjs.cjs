// The answers of a TensorFlow.js library's network for crops: node tfjs.cjs PEER CROPS.bin ANSWERS.bin EMOTIONS
const fs = require("fs");
const path = require("path");
const tf = require("@tensorflow/tfjs");
require("@tensorflow/tfjs-backend-wasm");

// peer -> its labels in order, and how its network is opened: a function of gray [1, 48, 48, 1], 0-255, to probabilities [1, 7]
const NETWORKS = {
  "face-api": {
    names: ["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"],
    open: async () => {
      const net = require("@vladmandic/face-api/dist/face-api.node-wasm.js").nets.faceExpressionNet;
      await net.loadFromDisk(path.join(require.resolve("@vladmandic/face-api/package.json"), "../model"));
      return async (gray) => {
        const rgb = tf.concat([gray, gray, gray], 3);
        const result = await net.forward(rgb);
        rgb.dispose();
        return result;
      };
    },
  },
  human: {
    names: ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"],
    open: async () => {
      const models = path.join(require.resolve("@vladmandic/human"), "../../models");
      const spec = JSON.parse(fs.readFileSync(path.join(models, "emotion.json")));
      const weightData = new Uint8Array(fs.readFileSync(path.join(models, "emotion.bin"))).buffer;
      const weightSpecs = spec.weightsManifest.flatMap((part) => part.weights);
      const model = await tf.loadGraphModel({ load: async () => ({ ...spec, weightSpecs, weightData }) });
      const side = model.inputs[0].shape[2];
      // human: resize, gray of red, green and blue, then (gray / 255 - 0.5) * 2
      return (gray) => tf.tidy(() => model.execute(tf.image.resizeBilinear(gray, [side, side]).div(255).sub(0.5).mul(2)));
    },
  },
};

const [peer, crops, answers, emotions] = process.argv.slice(2);

(async () => {
  await tf.setBackend("wasm");
  await tf.ready();
  const { names, open } = NETWORKS[peer];
  const predict = await open();
  const bytes = new Uint8Array(fs.readFileSync(crops));
  const count = bytes.length / 48 / 48;
  const out = new Float32Array(count * 7);
  const order = emotions.split(",").map((name) => names.indexOf(name));
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    const gray = tf.tensor(Float32Array.from(bytes.subarray(i * 2304, (i + 1) * 2304)), [1, 48, 48, 1]);
    const result = await predict(gray);
    const row = result.dataSync();
    order.forEach((from, to) => { out[i * 7 + to] = row[from]; });
    tf.dispose([gray, result]);
  }
  console.log((performance.now() - start) / count);
  fs.writeFileSync(answers, Buffer.from(out.buffer));
})();
