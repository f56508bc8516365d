const LONGEST = 640, UNDER_WAY = 2, SECONDS = 20, SILENCE = 15000;
const WHY = {NotAllowedError: 'denied', NotFoundError: 'none', NotReadableError: 'busy', OverconstrainedError: 'none'};

let percents;  // of the page's language
const percent = p => percents.format(p);
const most = face => Math.max(...face.probabilities);
const area = face => face.box[2] * face.box[3];
const fill = (text, values) => text.replace(/{(\w+)}/g, (_, name) => values[name]);

// The camera and the WebSocket. Two pictures are under way at a time; one that nobody has time for is never sent.
class Wire {
  constructor(root, data, tell) {
    this.find = name => root.querySelector(name);
    this.video = this.find('video'); this.frame = document.createElement('canvas');
    Object.assign(this, {data, tell, history: [], answers: [], spokenAt: 0, picked: 0, rows: null});
    this.find('.start').onclick = () => this.start();
    this.find('.stop').onclick = () => this.stop();
  }
  async start() {
    if (this.find('.start').ariaDisabled === 'true') return;  // a second camera could not be stopped
    if (!navigator.mediaDevices) return this.fail('insecure');
    this.waits(true);
    const turn = this.turn = {};  // until the next stop; the visitor may leave while the browser asks about the camera
    try {
      const wish = {width: {ideal: 640}, height: {ideal: 480}, frameRate: {ideal: 30}};
      if (this.cameraId) wish.deviceId = {exact: this.cameraId};
      const stream = await navigator.mediaDevices.getUserMedia({video: wish});
      if (turn !== this.turn) return stream.getTracks().forEach(t => t.stop());
      this.stream = stream;
      stream.getTracks()[0].onended = () => this.fail('none');
      this.video.srcObject = stream;
      await this.video.play();
      this.cameras(await navigator.mediaDevices.enumerateDevices());
      if (turn === this.turn) this.connect();
    } catch (e) { if (turn === this.turn) this.fail(WHY[e.name] ?? 'denied'); }
  }
  connect() {
    const url = new URL('live', document.baseURI.replace(/[^/]*$/, ''));
    url.protocol = url.protocol.replace('http', 'ws');
    url.searchParams.set('models', this.data.models);
    const socket = this.socket = new WebSocket(url);
    this.underWay = 0; this.busy = false; this.heardAt = performance.now();
    socket.onopen = () => { this.shown(true); this.tell(''); this.tick(socket); };
    socket.onmessage = e => { this.underWay--; this.heardAt = performance.now(); this.show(JSON.parse(e.data)); };
    socket.onclose = () => { if (socket === this.socket) this.fail('server'); };
  }
  tick(socket) {
    if (socket !== this.socket) return;
    if (this.underWay && performance.now() - this.heardAt > SILENCE) return this.fail('server');
    if (this.underWay < UNDER_WAY && !this.busy) this.send(socket);
    const next = () => this.tick(socket);
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(next);
    else requestAnimationFrame(next);
  }
  send(socket) {
    const {videoWidth: w, videoHeight: h} = this.video, part = Math.min(1, LONGEST / Math.max(w, h));
    if (!w) return;
    this.frame.width = Math.round(w * part); this.frame.height = Math.round(h * part);
    this.frame.getContext('2d').drawImage(this.video, 0, 0, this.frame.width, this.frame.height);
    this.busy = true;
    this.frame.toBlob(jpeg => {
      this.busy = false;
      if (jpeg && socket.readyState === 1) { this.underWay++; socket.send(jpeg); }
    }, 'image/jpeg', 0.8);
  }
  use(data) {
    const other = data.models !== this.data.models;
    this.data = data;
    if (other && this.socket) { const old = this.socket; this.connect(); old.close(); }
  }
  fail(problem) {
    this.stop();
    this.find('.problem').textContent = this.data.errors[problem] ?? this.data.errors.denied;
    this.tell(problem);
  }
  stop() {
    const old = this.socket; this.socket = this.turn = null; old?.close();
    this.recordEnds();
    this.stream?.getTracks().forEach(t => { t.onended = null; t.stop(); });
    this.video.srcObject = null; this.history = []; this.answers = [];
    this.shown(false);
  }
}

// What the visitor can set: the face, the camera, the threshold, the smallest face, a baseline, a recording.
class Tools extends Wire {
  texts() {
    const {texts} = this.data, say = (name, text) => { this.find(name).textContent = text; };
    for (const name of ['stop', 'promise', 'past', 'present', 'baseline', 'record']) say(`.${name}`, texts[name]);
    for (const name of ['which', 'camera', 'threshold', 'smallest']) say(`.${name} span`, texts[name]);
    this.find('video').setAttribute('aria-label', texts.video);
    this.find('.bars').setAttribute('aria-label', texts.bars);
    this.find('.chart').setAttribute('aria-label', texts.chart);
    const slide = (name, value, words) => {
      const input = this.find(`.${name} input`), output = this.find(`.${name} output`);
      input.value = value; input.oninput = () => { output.textContent = words(input.value); }; input.oninput();
    };
    slide('threshold', Math.round(100 * this.data.threshold), value => percent(value / 100));
    slide('smallest', 20, value => `${value} px`);
    this.find('.which select').onchange = e => { this.picked = Number(e.target.value); };
    this.find('.camera select').onchange = e => { this.cameraId = e.target.value; this.stop(); this.start(); };
    this.find('.baseline').onclick = () => this.rest(this.baseline ? null : this.face?.probabilities ?? null);
    this.find('.record').onclick = () => this.rows ? this.recordEnds() : this.recordStarts();
    this.find('.boxes').onclick = e => this.pickAt(e);
  }
  cameras(devices) {
    const all = devices.filter(d => d.kind === 'videoinput'), used = this.stream.getTracks()[0].getSettings().deviceId;
    this.find('.camera').hidden = all.length < 2;
    this.find('.camera select').replaceChildren(...all.map((d, i) => new Option(d.label || `${i + 1}`, d.deviceId, false, d.deviceId === used)));
  }
  faces(faces) {
    const select = this.find('.which select'), numbers = faces.map(f => f.number).sort((a, b) => a - b).join();
    if (select.dataset.numbers === numbers) return;
    select.dataset.numbers = numbers;
    const option = n => new Option(n ? fill(this.data.texts.face, {n}) : this.data.texts.largest, n, false, n === this.picked);
    const listed = [...new Set([0, ...(this.picked ? [this.picked] : []), ...faces.map(f => f.number)])];
    select.replaceChildren(...listed.map(option));
  }
  pickAt(event) {
    const {width, height, faces} = this.last ?? {faces: []}, box = event.target.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height);
    const x = width - (event.clientX - box.left - (box.width - width * scale) / 2) / scale;
    const y = (event.clientY - box.top - (box.height - height * scale) / 2) / scale;
    const hit = faces.find(f => x >= f.box[0] && x <= f.box[0] + f.box[2] && y >= f.box[1] && y <= f.box[1] + f.box[3]);
    this.picked = hit?.number ?? 0; this.find('.which select').dataset.numbers = '';
  }
  rest(probabilities) {
    this.baseline = probabilities;
    this.find('.baseline').setAttribute('aria-pressed', Boolean(probabilities));
    [...this.find('.bars').children].forEach((li, i) =>
      li.children[1].style.setProperty('--rest', probabilities ? percent(probabilities[i]) : '-9rem'));
  }
  recordStarts() {
    const {record, recording} = this.data.texts;
    this.rows = []; this.since = performance.now(); this.find('.saved').replaceChildren();
    this.find('.record').setAttribute('aria-pressed', true); this.find('.record').textContent = recording ?? record;
    this.tape = document.createElement('canvas');
    [this.tape.width, this.tape.height] = [this.video.videoWidth, this.video.videoHeight];
    if (!window.MediaRecorder || !this.tape.captureStream) return;
    const parts = [], type = ['video/webm', 'video/mp4'].find(t => MediaRecorder.isTypeSupported(t));
    this.tape.getContext('2d');
    this.recorder = new MediaRecorder(this.tape.captureStream(15), {mimeType: type});
    this.recorder.ondataavailable = e => parts.push(e.data);
    this.recorder.onstop = () => this.save(new Blob(parts, {type}), `webcam.${type.split('/')[1]}`);
    this.recorder.start(1000);
  }
  recordEnds() {
    if (!this.rows) return;
    const head = ['seconds', 'model', 'face', 'emotion', 'confidence', ...this.data.emotions];
    this.save(new Blob(['\ufeff', [head, ...this.rows].map(r => r.join()).join('\r\n'), '\r\n'], {type: 'text/csv'}), 'webcam.csv');
    this.rows = null;
    if (this.recorder?.state === 'recording') this.recorder.stop();
    this.find('.record').setAttribute('aria-pressed', false); this.find('.record').textContent = this.data.texts.record;
  }
  save(blob, name) {
    const link = Object.assign(document.createElement('a'), {href: URL.createObjectURL(blob), download: name, textContent: name});
    this.find('.saved').append(link);
    if (!link.isConnected) link.click();  // the visitor has left, and could not click it
  }
  note(faces) {
    const seconds = ((performance.now() - this.since) / 1000).toFixed(2);
    for (const f of faces)
      this.rows.push([seconds, this.data.models, f.number, f.emotion, most(f).toFixed(4), ...f.probabilities.map(p => p.toFixed(4))]);
    const pen = this.tape.getContext('2d'), {width, height} = this.tape;
    pen.save(); pen.translate(width, 0); pen.scale(-1, 1); pen.drawImage(this.video, 0, 0, width, height); pen.restore();
    pen.drawImage(this.find('.boxes'), 0, 0, width, height);
  }
}

// What comes back: the headline and the bars in step, boxes whose labels do not cover each other, the last seconds.
class Live extends Tools {
  waits(yes) {
    const button = this.find('.start'), {texts} = this.data;
    button.ariaDisabled = yes; button.textContent = yes ? texts.starting : texts.start;
    if (yes) this.find('.problem').textContent = '';
  }
  shown(on) {
    this.waits(false);
    const focused = this.find('.live').getRootNode().activeElement;
    for (const [name, hidden] of [['.idle', on], ['.stop', !on], ['.tools', !on]]) this.find(name).hidden = hidden;
    if (focused?.closest('.idle, .stop, .tools')?.hidden) this.find(on ? '.stop' : '.start').focus();
    for (const canvas of [this.find('.boxes'), this.find('.chart')]) canvas.width = canvas.height = 0;
    this.face = this.last = null; this.rest(null); this.picked = 0;
    this.find('.now').textContent = this.find('.spoken').textContent = this.data.texts.nobody;
    this.find('.foot output').textContent = ''; this.bars(null);
  }
  list() {
    const {emotions, names, colors} = this.data;
    this.find('.bars').replaceChildren(...emotions.map((e, i) => {
      const row = document.createElement('li'), [name, bar, number] = ['span', 'i', 'span'].map(t => document.createElement(t));
      name.textContent = names[i]; bar.ariaHidden = 'true'; bar.style.setProperty('--c', colors[i]);
      row.append(name, bar, number);
      return row;
    }));
    this.texts(); this.shown(false);
  }
  bars(probabilities) {
    [...this.find('.bars').children].forEach((li, i) => {
      const p = probabilities?.[i] ?? 0, change = this.baseline && probabilities ? Math.round(100 * (p - this.baseline[i])) : 0;
      li.children[1].style.setProperty('--w', `${100 * p}%`);
      li.children[2].textContent = probabilities ? percent(p) + (change ? ` ${change > 0 ? '+' : '−'}${Math.abs(change)}` : '') : '–';
    });
  }
  show(answer) {
    const now = performance.now(), {texts} = this.data, limit = Number(this.find('.threshold input').value) / 100;
    answer.faces = answer.faces.filter(f => f.box[2] >= Number(this.find('.smallest input').value));
    for (const f of answer.faces) f.is_confident = most(f) >= limit;
    this.last = answer;
    this.answers = [...this.answers.filter(t => now - t < 3000), now];
    const span = now - this.answers[0], rate = Math.round(1000 * (this.answers.length - 1) / span);
    if (span > 1000) this.find('.foot output').textContent = fill(texts.rate, {n: rate});
    const largest = answer.faces.reduce((a, b) => !a || area(b) > area(a) ? b : a, null);
    const face = this.face = answer.faces.find(f => f.number === this.picked) ?? (this.picked ? null : largest);
    this.faces(answer.faces); this.bars(face?.probabilities); this.boxes(answer);
    if (this.rows) this.note(answer.faces);
    if (now - (this.history.at(-1)?.[0] ?? 0) > 100) {  // more often nobody could see
      this.history = [...this.history.filter(([t]) => now - t < 1000 * SECONDS), [now, face?.probabilities]];
      this.chart(now);
    }
    this.say(face, answer.faces.length > 1, now);
  }
  say(face, several, now) {
    const {texts, emotions, names} = this.data;
    const name = face && names[emotions.indexOf(face.emotion)], who = several && face ? `${fill(texts.face, {n: face.number})}: ` : '';
    const words = face ? `${who}${name} ${percent(most(face))}${face.is_confident ? '' : `, ${texts.unsure}`}` : texts.nobody;
    this.find('.now').textContent = words;
    if (now - this.spokenAt < 2000) return;  // a screen reader needs time
    this.spokenAt = now; this.find('.spoken').textContent = words;
  }
  boxes({width, height, faces}) {
    const canvas = this.find('.boxes'), pen = canvas.getContext('2d'), {emotions, names, colors, inks} = this.data, taken = [];
    canvas.width = width; canvas.height = height;
    const high = Math.max(22, width / 23);  // of a label
    pen.font = `600 ${high * 0.68}px sans-serif`; pen.textBaseline = 'middle';
    for (const f of [...faces].sort((a, b) => a.box[1] - b.box[1])) {
      const i = emotions.indexOf(f.emotion), [x0, y, w, h] = f.box, x = width - x0 - w;
      const words = `${f.number}  ${names[i]}${f.is_confident ? '' : '?'} ${percent(f.probabilities[i])}`;
      const wide = pen.measureText(words).width + 14, left = Math.max(0, Math.min(x, width - wide));
      const free = t => t >= 0 && t + high <= height && taken.every(([l, r, u]) => left >= r || left + wide <= l || Math.abs(u - t) >= high);
      const places = [y - high, y + h, y, y + h - high, y - 2 * high, y + h + high], top = places.find(free) ?? Math.max(0, y - high);
      taken.push([left, left + wide, top]);
      pen.strokeStyle = 'rgb(0 0 0 / .55)'; pen.lineWidth = Math.max(4, width / 120); pen.strokeRect(x, y, w, h);
      pen.strokeStyle = pen.fillStyle = colors[i];
      pen.lineWidth = Math.max(2, width / (f === this.face ? 140 : 240));
      pen.strokeRect(x, y, w, h); pen.fillRect(left, top, wide, high);
      pen.fillStyle = inks[i]; pen.fillText(words, left + 7, top + high / 2);
    }
  }
  chart(now) {
    const canvas = this.find('.chart'), pen = canvas.getContext('2d'), ratio = devicePixelRatio || 1;
    const width = canvas.width = canvas.clientWidth * ratio, height = canvas.height = canvas.clientHeight * ratio;
    const at = t => width * (1 - (now - t) / 1000 / SECONDS);
    this.history.forEach(([t, probabilities], k) => {
      const x = at(t), next = this.history[k + 1], until = next ? Math.min(at(next[0]), x + width / SECONDS) : width;
      let y = 0;
      probabilities?.forEach((p, i) => {
        pen.fillStyle = this.data.colors[i];
        pen.fillRect(x, y * height, until - x + 1, p * height + 1);
        y += p;
      });
    });
  }
}

const known = new WeakMap();
export default function ({data, parentElement, setStateValue}) {
  const tell = problem => setStateValue('problem', problem);
  percents = new Intl.NumberFormat(data.language, {style: 'percent'});
  if (!known.has(parentElement)) {
    const made = new Live(parentElement, data, tell);
    known.set(parentElement, made); made.list();
  }
  const live = known.get(parentElement);
  live.tell = tell; live.use(data);
  return () => { known.delete(parentElement); live.stop(); };
}
