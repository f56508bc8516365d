// Faces and their expressions in a browser: the same ONNX files as in Python, and Pillow's arithmetic for the crops.
import * as ort from "./ort/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1;

export const EMOTIONS = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"];
const DETECTORS = { short: 0.5, full: 0.6 }; // least score of a face
const SIDE = 32; // pixels; both sides of what a detector sees are a multiple of it, as in faces.run_network
const CROP_SCALE = 1.481, CROP_OFFSET = [-0.003, -0.037]; // of crops.py

// The sessions of a classifier and of the two detectors, and the side of the classifier's faces, pixels; `folder` has
// the .onnx files.
export async function open(model, folder = "./models/") {
  const address = (name) => new URL(`${folder}${name}.onnx`, import.meta.url).href;
  const session = (name) => ort.InferenceSession.create(address(name));
  const file = fetch(address(model)).then((answer) => answer.arrayBuffer()).then((content) => new Uint8Array(content));
  const [classifier, short, full] = await Promise.all(
    [file.then((bytes) => ort.InferenceSession.create(bytes)), session("face_short"), session("face_full")]);
  return { classifier, short, full, side: faceSize(await file) };
}

// What an .onnx file says of its faces, 48 where it says nothing; the runtime does not hand out a file's metadata, which
// stands at its end as key, 0x12, length, value.
export function faceSize(bytes) {
  const found = /face_size\x12[\x02\x03](\d+)/.exec(new TextDecoder("latin1").decode(bytes.subarray(-65536)));
  return found ? Number(found[1]) : 48;
}

// Rows of 17 numbers: left, top, right, bottom, six points, score; pixels of the picture.
export async function detect(sessions, rgb, width, height) {
  const [w, h] = [width, height].map((n) => SIDE * Math.ceil(n / SIDE)), padded = new Uint8Array(3 * w * h);
  for (let y = 0; y < height; y++) padded.set(rgb.subarray(3 * width * y, 3 * width * (y + 1)), 3 * w * y);
  const view = new ort.Tensor("uint8", padded, [h, w, 3]);
  const rows = [];
  for (const [name, least] of Object.entries(DETECTORS)) {
    const { faces } = await sessions[name].run({ view, min_score: new ort.Tensor("float32", [least], []) });
    for (let i = 0; i < faces.dims[0]; i++) rows.push(Array.from(faces.data.subarray(17 * i, 17 * i + 17)));
  }
  return nms(rows).sort((a, b) => a[0] - b[0]);
}

// The best of each face: another is dropped where half of the smaller box is shared.
export function nms(rows) {
  const area = (r) => (r[2] - r[0]) * (r[3] - r[1]);
  const shared = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) *
    Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const kept = [];
  for (const row of [...rows].sort((a, b) => b[16] - a[16])) {
    if (kept.every((one) => shared(row, one) <= 0.5 * Math.min(area(row), area(one)))) kept.push(row);
  }
  return kept;
}

// Each face with its box and its probabilities, from left to right; `view` is the picture as the detectors see it.
export async function recognize(sessions, rgb, width, height, view = { rgb, width, height }) {
  const found = await detect(sessions, view.rgb, view.width, view.height);
  const rows = found.map((row) => row.map((v, i) => (i < 16 ? (v * width) / view.width : v)));
  if (!rows.length) return [];
  const { side } = sessions, crops = new Uint8Array(rows.length * side * side);
  rows.forEach((row, i) => crops.set(cropFace(rgb, width, height, row, side), i * side * side));
  const faces = new ort.Tensor("uint8", crops, [rows.length, side, side]);
  const { probabilities } = await sessions.classifier.run({ faces });
  return rows.map((row, i) => ({
    box: [row[0], row[1], row[2] - row[0], row[3] - row[1]],
    score: row[16],
    probabilities: Array.from(probabilities.data.subarray(7 * i, 7 * i + 7)),
  }));
}

// A face as FER2013 would have framed it: crops.crop_face.
export function cropFace(rgb, width, height, row, size = 48) {
  const points = [0, 1, 2, 3, 4, 5].map((i) => [row[4 + 2 * i], row[5 + 2 * i]]);
  const middle = [0, 1].map((k) => points.reduce((sum, p) => sum + p[k], 0) / 6);
  const spread = Math.sqrt(points.reduce((sum, p) => sum + (p[0] - middle[0]) ** 2 + (p[1] - middle[1]) ** 2, 0));
  const roll = Math.atan2(points[1][1] - points[0][1], points[1][0] - points[0][0]);
  const [cos, sin] = [Math.cos(roll), Math.sin(roll)];
  const [right, down] = CROP_OFFSET;
  const x = middle[0] + (right * cos - down * sin) * spread;
  const y = middle[1] + (right * sin + down * cos) * spread;
  const side = CROP_SCALE * spread;
  const reach = (side / 2) * (Math.abs(cos) + Math.abs(sin));
  const left = Math.floor(x - reach), top = Math.floor(y - reach);
  const part = grayPatch(rgb, width, height, left, top, Math.ceil(x + reach) + 1, Math.ceil(y + reach) + 1);
  const box = [x - reach - left, y - reach - top, x + reach - left, y + reach - top];
  const wide = 2 * halfToEven(((2 * reach) / side) * size);
  const turned = rotate(resize(part, wide, box, 3), (roll * 180) / Math.PI);
  const edge = wide / 2 - size;
  return resize(turned, size, [edge, edge, wide - edge, wide - edge]).data;
}

function halfToEven(v) { // as Python rounds
  const floor = Math.floor(v);
  return v - floor === 0.5 ? floor + (floor % 2) : Math.round(v);
}

function grayPatch(rgb, width, height, left, top, right, bottom) {
  const w = right - left, h = bottom - top, data = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) {
    const row = Math.min(Math.max(top + y, 0), height - 1) * width;
    for (let x = 0; x < w; x++) {
      const at = 3 * (row + Math.min(Math.max(left + x, 0), width - 1));
      data[y * w + x] = (rgb[at] * 19595 + rgb[at + 1] * 38470 + rgb[at + 2] * 7471 + 0x8000) >> 16;
    }
  }
  return { data, w, h };
}

// Pillow's resize(size, LANCZOS, box, reducing_gap) to a square.
function resize(image, size, box, gap = 0) {
  const factor = [0, 1].map((k) => (gap ? Math.max(1, Math.floor((box[2 + k] - box[k]) / size / gap)) : 1));
  if (factor[0] > 1 || factor[1] > 1) {
    const around = [0, 1].map((k) => (2.5 * (box[2 + k] - box[k])) / size);
    const limit = [image.w, image.h];
    const from = [0, 1].map((k) => Math.max(0, Math.trunc(box[k] - around[k])));
    const to = [0, 1].map((k) => Math.min(limit[k], Math.ceil(box[2 + k] + around[k])));
    image = reduce(image, factor, from, to);
    box = box.map((v, i) => (v - from[i % 2]) / factor[i % 2]);
  }
  return flip(lanczos(flip(lanczos(image, size, box[0], box[2])), size, box[1], box[3]));
}

function reduce(image, [fx, fy], from, to) {
  const w = Math.ceil((to[0] - from[0]) / fx), h = Math.ceil((to[1] - from[1]) / fy), data = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
    const [x0, y0] = [from[0] + x * fx, from[1] + y * fy];
    const [x1, y1] = [Math.min(x0 + fx, to[0]), Math.min(y0 + fy, to[1])];
    let sum = 0;
    for (let v = y0; v < y1; v++) for (let u = x0; u < x1; u++) sum += image.data[v * image.w + u];
    data[y * w + x] = Math.floor(sum / ((x1 - x0) * (y1 - y0)) + 0.5);
  }
  return { data, w, h };
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Each row from [low, high] to `size` pixels.
function lanczos(image, size, low, high) {
  const scale = (high - low) / size, wide = Math.max(scale, 1), reach = 3 * wide, data = new Uint8Array(size * image.h);
  for (let x = 0; x < size; x++) {
    const center = low + (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(image.w, Math.trunc(center + reach + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) {
      const t = (i - center + 0.5) / wide;
      weights.push(t > -3 && t < 3 ? sinc(t) * sinc(t / 3) : 0);
    }
    const all = weights.reduce((a, b) => a + b, 0);
    for (let y = 0; y < image.h; y++) {
      let sum = 0;
      for (let i = first; i < last; i++) sum += (image.data[y * image.w + i] * weights[i - first]) / all;
      data[y * size + x] = Math.min(255, Math.max(0, Math.floor(sum + 0.5)));
    }
  }
  return { data, w: size, h: image.h };
}

function flip({ data, w, h }) { // rows become columns
  const out = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) out[x * h + y] = data[y * w + x];
  return { data: out, w: h, h: w };
}

// Pillow's rotate(degrees, BICUBIC) about the middle; what comes from outside is black.
function rotate(image, degrees) {
  const { data, w, h } = image, angle = (-degrees * Math.PI) / 180, out = new Uint8Array(w * h);
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  const clip = (v, n) => Math.min(Math.max(v, 0), n - 1);
  const cubic = (a, b, e, f, d) => b + d * (-a + e + d * (2 * (a - b) + e - f + d * (-a + b - e + f)));
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
    const u = c * (x + 0.5 - w / 2) + s * (y + 0.5 - h / 2) + w / 2;
    const v = -s * (x + 0.5 - w / 2) + c * (y + 0.5 - h / 2) + h / 2;
    if (u < 0 || u >= w || v < 0 || v >= h) continue;
    const i = Math.floor(u - 0.5), j = Math.floor(v - 0.5), dx = u - 0.5 - i, dy = v - 0.5 - j;
    const line = (row) => cubic(...[-1, 0, 1, 2].map((k) => data[clip(row, h) * w + clip(i + k, w)]), dx);
    out[y * w + x] = Math.min(255, Math.max(0, Math.trunc(cubic(...[-1, 0, 1, 2].map((k) => line(j + k)), dy))));
  }
  return { data: out, w, h };
}
