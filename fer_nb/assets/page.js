// What the HTML of photos and videos needs of a script. Mounted on every page with results; it leaves nothing behind when it goes.

const find = (selector, from = document) => from.querySelector(selector);
const same = key => `[data-face="${CSS.escape(key)}"]`;

function mark(key, on) {
  for (const element of document.querySelectorAll(same(key))) element.classList.toggle('fer-on', on);
}

function goTo(element) {
  if (!element) return;
  const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  element.scrollIntoView({behavior: calm ? 'auto' : 'smooth', block: 'center'});
  element.setAttribute('tabindex', '-1');
  element.focus({preventScroll: true});
}

function enlarge(stage, texts) {
  const dialog = document.createElement('dialog'), close = document.createElement('button');
  dialog.className = 'fer-dialog';
  dialog.setAttribute('aria-label', stage.querySelector('img').alt);
  close.textContent = texts.close;
  close.onclick = () => dialog.close();
  const copy = stage.cloneNode(true);
  copy.onclick = () => copy.classList.toggle('fer-double');
  dialog.append(close, copy);
  dialog.onclose = () => dialog.remove();
  find('.stApp').append(dialog);
  dialog.showModal();
}

function seek(area, x) {
  const video = find('video'), box = area.getBoundingClientRect(), end = Number(area.dataset.end);
  if (!video) return;
  video.currentTime = Math.max(0, Math.min(1, (x - box.left) / box.width)) * end;
  goTo(video);
}

function playhead(event) {
  if (event.target.tagName !== 'VIDEO') return;
  for (const area of document.querySelectorAll('[data-end]')) {
    const made = Object.assign(document.createElement('b'), {className: 'fer-playhead'});
    const head = find('.fer-playhead', area) ?? area.appendChild(made);
    area.setAttribute('aria-valuenow', event.target.currentTime.toFixed(1));
    head.style.left = `${100 * Math.min(1, event.target.currentTime / Number(area.dataset.end))}%`;
  }
}

function paste(event) {
  const input = find('[data-testid="stFileUploader"] input[type=file]'), files = event.clipboardData?.files ?? [];
  if (!input || !files.length) return;
  const list = new DataTransfer();
  for (const file of files) list.items.add(file);
  input.files = list.files;
  input.dispatchEvent(new Event('change', {bubbles: true}));
}

class Page {
  constructor() {
    const listen = (target, type, act, more = {}) => target.addEventListener(type, act, {signal: this.end.signal, ...more});
    this.end = new AbortController();
    listen(document, 'click', e => this.click(e));
    listen(document, 'paste', paste);
    listen(document, 'timeupdate', playhead, {capture: true});
    listen(document, 'seeked', playhead, {capture: true});
    listen(document, 'keydown', e => this.key(e));
    for (const [type, on] of [['pointerover', true], ['pointerout', false], ['focusin', true], ['focusout', false]])
      listen(document, type, e => { const it = e.target.closest?.('[data-face]'); if (it?.dataset.face) mark(it.dataset.face, on); });
  }
  use(data, ask) {
    Object.assign(this, {texts: data.texts, ask});
    for (const [key, html] of Object.entries(data.explanations)) {
      const place = find(`[data-explanation="${CSS.escape(key)}"]`);
      if (!place || place.dataset.shown === String(html.length)) continue;
      place.dataset.shown = html.length; place.innerHTML = html;
      const button = find(`[data-explain="${CSS.escape(key)}"]`);
      if (!button) continue;
      if (button === document.activeElement) { place.tabIndex = -1; place.focus({preventScroll: true}); }  // keeps the keyboard's place
      button.hidden = true;
    }
    for (const note of document.querySelectorAll('.fer-insecure')) note.hidden = Boolean(navigator.mediaDevices);
  }
  click(event) {
    const at = name => event.target.closest?.(`[data-${name}]`), explain = at('explain'), goto_ = at('goto'), zoom = at('zoom');
    if (explain) {
      if (explain.ariaDisabled === 'true') return;
      explain.textContent = this.texts.working; explain.ariaDisabled = 'true'; this.ask(explain.dataset.explain);
    } else if (goto_) goTo(document.getElementById(goto_.dataset.goto));
    else if (zoom) enlarge(find('.fer-stage', zoom.closest('figure')), this.texts);
    else if (event.target.closest?.('.fer-box') && !event.target.closest('dialog'))
      goTo(find(`.fer-card${same(event.target.closest('.fer-box').dataset.face)}`));
    else if (at('end')) seek(at('end'), event.clientX);
  }
  key(event) {
    const area = event.target.closest?.('[data-end]'), video = find('video');
    if (!area || !video || !['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
    event.preventDefault();
    video.currentTime += event.key === 'ArrowRight' ? 1 : -1;
  }
}

let page = null, users = 0;
export default function ({data, setTriggerValue}) {
  page ??= new Page();
  users++;
  page.use(data, key => setTriggerValue('explain', key));
  return () => { if (--users <= 0) { page.end.abort(); page = null; users = 0; } };
}
