// What links the charts of a study: one view (filters, colour, the trial pointed at) for all of them.
let data = JSON.parse(document.getElementById("study-data").textContent);
const view = { objective: 0, colour: "", curve: "curve", top: 1, hidden: new Set(), brushes: {}, on: null, pinned: null };
const plots = new Map(); // host element -> plot
const card = document.getElementById("card");

const byNumber = (number) => data.trials.find((trial) => trial.number === number);

// Colours -------------------------------------------------------------------------------------------------------------
const ramp = (place) => {
  const p = Math.min(Math.max(place, 0), 1);
  return p < 0.5 ? `color-mix(in oklab, var(--r1) ${200 * p}%, var(--r0))` : `color-mix(in oklab, var(--r2) ${200 * p - 100}%, var(--r1))`;
};

function colourFunction() {
  const knob = data.knobs.find((k) => k.key === view.colour);
  if (knob?.choices.length) return (t) => (knob.key in t.params ? `var(--c${(knob.choices.indexOf(String(t.params[knob.key])) % 8) + 1})` : "var(--line)");
  if (knob) {
    const { place } = knobScale(knob, 0, 1);
    return (t) => (knob.key in t.params ? ramp(place(t.params[knob.key])) : "var(--line)");
  }
  if (view.colour === "value") {
    const [low, high] = data.objectives[0].limits ?? [0, 1];
    return (t) => (t.last === null ? "var(--line)" : ramp((t.last - low) / (high - low)));
  }
  return (t) => `var(--e-${t.state})`;
}

function showRamp() {
  const place = document.getElementById("ramp");
  const knob = data.knobs.find((k) => k.key === view.colour);
  place.hidden = !view.colour;
  const key = (slot) => Object.assign(document.createElement("i"), { className: `key b${(slot % 8) + 1}` });
  if (knob?.choices.length) place.replaceChildren(...knob.choices.flatMap((choice, i) => [key(i), choice]));
  else if (view.colour) {
    const [low, high] = knob ? [knob.low, knob.high] : data.objectives[0].limits ?? [0, 1];
    place.replaceChildren(short(low), document.createElement("i"), short(high));
  }
}

// Filters -------------------------------------------------------------------------------------------------------------
function passing() {
  const sign = data.objectives[view.objective].maximize ? 1 : -1;
  const ranked = data.trials.filter((t) => t.values).map((t) => sign * t.values[view.objective]).sort((a, b) => b - a);
  const bar = view.top < 1 && ranked.length ? ranked[Math.max(0, Math.ceil(view.top * ranked.length) - 1)] : -Infinity;
  const places = Object.entries(view.brushes).map(([key, range]) => {
    if (key === "value") {
      const { place } = linearScale(...(data.objectives[view.objective].limits ?? lastLimits(data)), 0, 1);
      return [(t) => (valueOf(t, view.objective) === null ? undefined : Math.max(0, place(valueOf(t, view.objective)))), range];
    }
    const { place } = knobScale(data.knobs.find((k) => k.key === key), 0, 1);
    return [(t) => (key in t.params ? place(t.params[key]) : undefined), range];
  });
  return new Set(
    data.trials
      .filter((t) => !view.hidden.has(t.state))
      .filter((t) => view.top === 1 || (t.values && sign * t.values[view.objective] >= bar))
      .filter((t) => places.every(([of, [low, high]]) => of(t) !== undefined && of(t) >= low - 1e-9 && of(t) <= high + 1e-9))
      .map((t) => t.number),
  );
}

let shown = new Set();
function applyFilters() {
  shown = passing();
  for (const mark of document.querySelectorAll(".mark[data-trial]")) mark.classList.toggle("out", !shown.has(+mark.dataset.trial));
  for (const row of document.querySelectorAll("tr[data-trial]")) row.hidden = !shown.has(+row.dataset.trial);
  document.getElementById("shown").textContent = `${shown.size} of ${data.trials.length} trials`;
  document.getElementById("clear").hidden = shown.size === data.trials.length && !Object.keys(view.brushes).length;
}

function applyColours() {
  const colour = colourFunction();
  const colours = new Map(data.trials.map((t) => [String(t.number), colour(t)]));
  for (const mark of document.querySelectorAll(".mark[data-trial]")) mark.style.setProperty("--mark", colours.get(mark.dataset.trial));
  showRamp();
}

// The trial pointed at --------------------------------------------------------------------------------------------------
function highlight(number) {
  const wanted = number ?? view.pinned;
  if (wanted === view.on) return;
  view.on = wanted;
  document.querySelectorAll(".on").forEach((mark) => mark.classList.remove("on"));
  card.hidden = wanted === null;
  if (wanted === null) return;
  for (const mark of document.querySelectorAll(`.mark[data-trial="${wanted}"], tr[data-trial="${wanted}"]`)) {
    mark.classList.add("on");
    if (mark.matches(".mark")) mark.parentNode.append(mark); // on top of the others
  }
  showCard(byNumber(wanted));
}

function showCard(trial) {
  const words = (tag, text, className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
  const parts = [words("b", `Trial ${trial.number}`)];
  const values = trial.values ?? (trial.last === null ? [] : [trial.last]);
  values.forEach((value, i) => parts.push(words("b", `${data.objectives[i].metric} ${+value.toPrecision(4)}`)));
  parts.push(words("span", trial.state.replace("_", " ")));
  for (const [key, value] of Object.entries(trial.params)) parts.push(words("span", `${key.split(".").at(-1)} ${typeof value === "number" ? +value.toPrecision(4) : value}`));
  if (trial.page) parts.push(Object.assign(words("a", "run"), { href: trial.page }));
  if (view.pinned === trial.number) parts.push(Object.assign(words("button", "let go"), { type: "button", onclick: () => pin(null) }));
  if (trial.reason) parts.push(words("span", trial.reason, "why"));
  card.replaceChildren(...parts);
}

function pin(number) {
  view.pinned = view.pinned === number ? null : number;
  view.on = undefined; // so that the card is written again
  highlight(view.pinned);
}

const NEAR = 22; // pixels
function nearest(plot, event) {
  const box = plot.svg.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = null, least = NEAR ** 2;
  for (const mark of plot.marks) {
    const far = (mark.x - x) ** 2 + (mark.y - y) ** 2;
    if (far < least && shown.has(mark.trial)) [best, least] = [mark.trial, far];
  }
  return best;
}

function listen(plot) {
  const { host } = plot;
  host.addEventListener("pointermove", (event) => { if (!plot.dragging) highlight(nearest(plot, event)); });
  host.addEventListener("pointerleave", () => highlight(null));
  host.addEventListener("click", (event) => {
    const found = event.target.closest(".zone") ? null : nearest(plot, event);
    if (found !== null) pin(found);
  });
  if (host.dataset.draw === "parallel") listenForBrushes(plot);
}

function listenForBrushes(plot) {
  const place = (event) => {
    const { top, bottom } = plot.axis;
    const y = event.clientY - plot.svg.getBoundingClientRect().top;
    return Math.min(Math.max((bottom - y) / (bottom - top), 0), 1);
  };
  plot.host.addEventListener("pointerdown", (event) => {
    const zone = event.target.closest(".zone");
    if (!zone) return;
    const from = place(event);
    plot.dragging = true;
    const move = (now) => {
      const to = place(now);
      if (Math.abs(to - from) < 0.02) delete view.brushes[zone.dataset.axis];
      else view.brushes[zone.dataset.axis] = [Math.min(from, to), Math.max(from, to)];
      draw(plot);
      refresh();
    };
    const end = (now) => {
      move(now);
      plot.dragging = false;
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
    event.preventDefault();
  });
}

// Drawing -------------------------------------------------------------------------------------------------------------
function draw(plot) {
  const kind = DRAW[plot.host.dataset.draw];
  const available = plot.host.closest(".scroll")?.clientWidth ?? plot.host.clientWidth;
  plot.width = Math.max(available, kind.width?.(data) ?? 200);
  plot.height = kind.height(data);
  plot.marks = [];
  plot.svg = element("svg", { width: plot.width, height: plot.height, role: "img", "aria-label": plot.host.closest("section").querySelector("h2").textContent });
  kind.draw(plot, data, view);
  plot.host.replaceChildren(plot.svg);
}

function refresh() {
  applyColours();
  applyFilters();
  const on = view.on;
  view.on = undefined;
  highlight(on ?? null);
}

function drawAll() {
  // The more lines cross, the fainter each is: 0.75 for a few, 0.3 for hundreds.
  document.documentElement.style.setProperty("--line-opacity", Math.min(0.75, 5 / Math.sqrt(data.trials.length + 1)));
  for (const host of document.querySelectorAll(".plot")) {
    if (!plots.has(host)) {
      plots.set(host, { host });
      listen(plots.get(host));
    }
    draw(plots.get(host));
  }
  refresh();
}

function sortRows(button) {
  const column = [...button.closest("tr").children].indexOf(button.closest("th"));
  const up = button.getAttribute("aria-sort") === "descending";
  document.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  button.setAttribute("aria-sort", up ? "ascending" : "descending");
  view.sort = { column, up };
  sortBy(view.sort);
}

function sortBy({ column, up }) {
  const body = document.querySelector(".trials tbody");
  const key = (row) => row.children[column].dataset.order ?? row.children[column].textContent;
  const compare = (a, b) => {
    if ((a === "") !== (b === "")) return a === "" ? 1 : -1; // what has no value stays below
    const [x, y] = [Number(a), Number(b)];
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
    return up ? order : -order;
  };
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
}

// Controls ------------------------------------------------------------------------------------------------------------
document.addEventListener("change", (event) => {
  const { target } = event;
  if (target.dataset.state) {
    if (target.checked) view.hidden.delete(target.dataset.state);
    else view.hidden.add(target.dataset.state);
    refresh();
  } else if (target.id === "top") { view.top = +target.value; refresh(); }
  else if (target.id === "colour") { view.colour = target.value; refresh(); }
  else if (target.id === "objective") { view.objective = +target.value; drawAll(); }
  else if (target.id === "curve") { view.curve = target.value; drawAll(); }
});
document.addEventListener("click", async (event) => {
  const { target } = event;
  if (target.id === "clear") {
    Object.assign(view, { top: 1, brushes: {} });
    view.hidden.clear();
    document.getElementById("top").value = "1";
    document.querySelectorAll("input[data-state]").forEach((box) => { box.checked = true; });
    drawAll();
  } else if (target.matches("button.copy")) {
    await copy(target.dataset.text);
    target.textContent = "Copied";
    setTimeout(() => { target.textContent = "Copy as YAML"; }, 1500);
  } else if (target.matches("button[data-sort]")) sortRows(target);
  else if (target.closest("tr[data-trial]") && !target.closest("a")) pin(+target.closest("tr").dataset.trial);
});
document.addEventListener("pointerover", (event) => {
  const row = event.target.closest("tr[data-trial]");
  if (row) highlight(+row.dataset.trial);
});
document.addEventListener("pointerout", (event) => {
  if (event.target.closest("tr[data-trial]") && !event.relatedTarget?.closest?.("tr[data-trial]")) highlight(null);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && view.pinned !== null) pin(null); });

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page opened from a file may not use the clipboard: select and copy as of old
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

let drawnWidth = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth === drawnWidth) return;
  drawnWidth = document.body.clientWidth;
  drawAll();
}).observe(document.body);

document.addEventListener("parts", () => { // `live.js` has put in new ones
  data = JSON.parse(document.getElementById("study-data").textContent);
  for (const box of document.querySelectorAll("input[data-state]")) box.checked = !view.hidden.has(box.dataset.state);
  if (view.sort) sortBy(view.sort);
  drawAll();
});
