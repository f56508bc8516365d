// The page: a photo or the camera in, boxes and words out.
import { EMOTIONS, open, recognize } from "./fer.js";

const COLORS = ["#D55E00", "#009E73", "#CC79A7", "#E69F00", "#7F7F7F", "#0072B2", "#56B4E9"];
const LARGEST = 1600, CAMERA_VIEW = 192; // pixels; full range was made for the second
const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
const small = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const button = document.querySelector("button"), file = document.querySelector("input");
const status = document.querySelector("[role=status]"), list = document.querySelector("ol");
const percent = (p) => `${Math.round(100 * p)}%`;
let stream = null, turn = null;

const sessions = open(new URLSearchParams(location.search).get("model") || "mobilenet_v3");
sessions.then(() => { status.textContent = "Ready."; document.body.dataset.ready = "yes"; })
  .catch((error) => { status.textContent = `The networks could not be loaded: ${error.message}`; });

// What `pen` draws from `source`, at most `longest` pixels wide and high.
function pixels(pen, source, width, height, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  [pen.canvas.width, pen.canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  pen.drawImage(source, 0, 0, pen.canvas.width, pen.canvas.height);
  const { data, width: w, height: h } = pen.getImageData(0, 0, pen.canvas.width, pen.canvas.height);
  const rgb = new Uint8Array(3 * w * h);
  for (let i = 0, j = 0; i < data.length; i += 4) { rgb[j++] = data[i]; rgb[j++] = data[i + 1]; rgb[j++] = data[i + 2]; }
  return { rgb, width: w, height: h };
}

// Draws `source`, recognizes what is there, and shows it. The detectors see at most `longest` pixels.
async function look(source, width, height, longest = LARGEST) {
  const whole = pixels(pen, source, width, height, LARGEST);
  const view = longest < LARGEST ? pixels(small, canvas, whole.width, whole.height, longest) : whole;
  const faces = await recognize(await sessions, whole.rgb, whole.width, whole.height, view);
  show(faces);
  return faces;
}

function show(faces) {
  const size = Math.max(14, canvas.width / 40);
  pen.font = `${size}px system-ui`;
  pen.lineWidth = size / 5;
  list.replaceChildren(...faces.map(({ box: [x, y, w, h], probabilities }, i) => {
    const top3 = EMOTIONS.map((name, k) => [probabilities[k], name, COLORS[k]]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const [p, name, color] = top3[0], text = `${i + 1}  ${name} ${percent(p)}`;
    pen.strokeStyle = pen.fillStyle = color;
    pen.strokeRect(x, y, w, h);
    pen.fillRect(x, Math.max(0, y - 1.4 * size), pen.measureText(text).width + size, 1.4 * size);
    pen.fillStyle = "black";
    pen.fillText(text, x + size / 2, Math.max(0, y - 1.4 * size) + size);
    const item = document.createElement("li");
    item.textContent = top3.map(([q, word]) => `${word} ${percent(q)}`).join(", ");
    return item;
  }));
}

file.addEventListener("change", async () => {
  stop();
  try {
    const picture = await createImageBitmap(file.files[0]);
    const faces = await look(picture, picture.width, picture.height);
    status.textContent = faces.length ? `${faces.length} found.` : "No face was found.";
  } catch (error) {
    status.textContent = `This photo cannot be read: ${error.message}`;
  }
  file.value = ""; // the same photo again is a change again
});

function stop() {
  turn = null;
  stream?.getTracks().forEach((track) => { track.onended = null; track.stop(); });
  stream = null;
  button.textContent = "Start the camera";
}

button.addEventListener("click", async () => {
  if (stream) return stop();
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true"; // a second camera could not be stopped
  const mine = (turn = {}); // until a photo is chosen, which can be while the browser asks about the camera
  try {
    const camera = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
    if (mine !== turn) return camera.getTracks().forEach((track) => track.stop());
    stream = camera;
  } catch (error) {
    if (mine === turn) status.textContent = `The camera cannot be used: ${error.message}`;
    return;
  } finally {
    button.ariaDisabled = "false";
  }
  const camera = stream;
  camera.getVideoTracks()[0].onended = () => { stop(); status.textContent = "The camera was unplugged. Plug one in and start again."; };
  button.textContent = "Stop";
  const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  let frames = 0, since = performance.now();
  while (stream === camera) {
    await look(video, video.videoWidth, video.videoHeight, CAMERA_VIEW);
    frames++;
    const seconds = (performance.now() - since) / 1000;
    if (seconds > 2 && stream === camera) {
      status.textContent = `${(frames / seconds).toFixed(0)} pictures a second.`;
      document.body.dataset.fps = (frames / seconds).toFixed(1);
      [frames, since] = [0, performance.now()];
    }
    await new Promise(requestAnimationFrame);
  }
});

window.fer = { look, recognize, sessions };
