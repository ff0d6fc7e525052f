// Plays the paths. Coordinates are the surface's own until `toScreen`; `now` counts steps and may be between two.
const surfaces = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const canvas = byId("canvas"), pen = canvas.getContext("2d"), tip = byId("tip");
const SECONDS = 12, BANDS = 14;
let surface = surfaces[0], now = 0, last = 0, playing = false, background = null, before = 0;

byId("stage").hidden = false;
surfaces.forEach((one, i) => {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "surface", checked: i === 0 });
  input.addEventListener("change", () => choose(one));
  label.append(input, ` ${one.name}`);
  byId("surfaces").append(label);
});

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const boxes = () => [...document.querySelectorAll("#optimisers input")];
const shown = () => boxes().filter((box) => box.checked).map((box) => {
  const run = surface.runs.find((one) => one.name === box.value);
  return { ...run, colour: colour(`--c${box.dataset.slot}`) };
});
const length = (run) => (run.path.length - 1) * run.stride;

function toScreen([x, y]) {
  const [x0, x1, y0, y1] = surface.domain;
  return [((x - x0) / (x1 - x0)) * canvas.clientWidth, (1 - (y - y0) / (y1 - y0)) * canvas.clientHeight];
}

function at(run, step) {
  const place = Math.min(step / run.stride, run.path.length - 1), i = Math.floor(place), part = place - i;
  const a = run.path[i], b = run.path[Math.min(i + 1, run.path.length - 1)];
  return [a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])];
}

function rgb(hex) { return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)); }

// Bands of equal height, with a line where two meet.
function paintBackground() {
  const width = canvas.width, height = canvas.height, size = surface.heights.length;
  const image = new ImageData(width, height), band = new Int8Array(width * height);
  const low = rgb(colour("--low")), high = rgb(colour("--high")), line = rgb(colour("--contour"));
  for (let row = 0; row < height; row++) {
    const v = (1 - row / (height - 1)) * (size - 1), j = Math.min(Math.floor(v), size - 2), q = v - j;
    for (let column = 0; column < width; column++) {
      const u = (column / (width - 1)) * (size - 1), i = Math.min(Math.floor(u), size - 2), p = u - i;
      const a = surface.heights[j], b = surface.heights[j + 1];
      const z = (1 - q) * ((1 - p) * a[i] + p * a[i + 1]) + q * ((1 - p) * b[i] + p * b[i + 1]);
      const k = row * width + column;
      band[k] = Math.min(Math.floor(z * BANDS), BANDS - 1);
      const edge = (column > 0 && band[k] !== band[k - 1]) || (row > 0 && band[k] !== band[k - width]);
      for (let c = 0; c < 3; c++) image.data[4 * k + c] = edge ? line[c] : low[c] + (band[k] / (BANDS - 1)) * (high[c] - low[c]);
      image.data[4 * k + 3] = 255;
    }
  }
  background = image;
}

function resize() {
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
  paintBackground();
  draw();
}

function draw() {
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.putImageData(background, 0, 0);
  const scale = canvas.width / canvas.clientWidth;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  if (surface.minimum) star(...toScreen(surface.minimum));
  for (const run of shown()) {
    pen.strokeStyle = run.colour;
    pen.lineWidth = 1.8;
    pen.lineJoin = "round";
    pen.beginPath();
    const whole = Math.min(Math.floor(now / run.stride), run.path.length - 1);
    for (let i = 0; i <= whole; i++) pen.lineTo(...toScreen(run.path[i]));
    const head = toScreen(at(run, now));
    pen.lineTo(...head);
    pen.stroke();
    pen.fillStyle = run.colour;
    pen.beginPath();
    pen.arc(...head, 4.5, 0, 7);
    pen.fill();
    pen.strokeStyle = colour("--card");
    pen.lineWidth = 1.5;
    pen.stroke();
  }
  byId("step").textContent = `step ${Math.round(now)}`;
  byId("scrub").value = Math.round(now);
}

function star(x, y) {
  pen.strokeStyle = colour("--ink");
  pen.lineWidth = 2;
  pen.beginPath();
  for (const [dx, dy] of [[6, 0], [0, 6]]) { pen.moveTo(x - dx, y - dy); pen.lineTo(x + dx, y + dy); }
  pen.stroke();
}

function measure() {
  last = Math.max(1, ...shown().map(length));
  byId("scrub").max = last;
  now = Math.min(now, last);
  const names = shown().map((run) => `${run.name}${run.steps === null ? " never arrives" : ` ${run.steps} steps`}`);
  canvas.setAttribute("aria-label", `${surface.name}, ${surface.formula}. ${names.join(", ")}.`);
}

function choose(one) {
  surface = one;
  byId("formula").textContent = surface.formula;
  measure();
  now = playing ? 0 : last;
  paintBackground();
  draw();
}

function setPlaying(wanted) {
  playing = wanted;
  byId("play").textContent = playing ? "Pause" : "Play";
  byId("play").setAttribute("aria-pressed", String(playing));
  if (!playing) return;
  if (now >= last) now = 0;
  before = performance.now();
  requestAnimationFrame(frame);
}

function frame(time) {
  if (!playing) return;
  now += ((time - before) / 1000) * (last / SECONDS) * Number(byId("speed").value);
  before = time;
  if (now >= last) { now = last; setPlaying(false); }
  draw();
  if (playing) requestAnimationFrame(frame);
}

byId("play").addEventListener("click", () => setPlaying(!playing));
byId("scrub").addEventListener("input", (event) => { setPlaying(false); now = Number(event.target.value); draw(); });
boxes().forEach((box) => box.addEventListener("change", () => { measure(); draw(); }));
canvas.addEventListener("pointermove", (event) => {
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = null, nearest = 20;
  for (const run of shown()) {
    run.path.forEach((point, i) => {
      if (i * run.stride > now) return;
      const [px, py] = toScreen(point), distance = Math.hypot(px - x, py - y);
      if (distance < nearest) { nearest = distance; best = { run, point, step: i * run.stride, px, py }; }
    });
  }
  tip.hidden = !best;
  if (!best) return;
  tip.textContent = `${best.run.name}, step ${best.step}: x ${best.point[0]}, y ${best.point[1]}`;
  tip.style.left = `${Math.max(0, Math.min(best.px + 10, canvas.clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, best.py - tip.offsetHeight - 8)}px`;
});
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", resize);
new ResizeObserver(resize).observe(canvas);
measure();
now = last;
byId("formula").textContent = surface.formula;
resize();
