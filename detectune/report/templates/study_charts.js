// The charts of a study. Each draws into `plot` ({svg, width, height, marks}) and notes in `plot.marks` where a pointer
// finds a trial: {trial, x, y}. A mark's element carries data-trial; page-wide rules colour, dim and raise it.
const LEFT = 48, RIGHT = 12, TOP = 10, BOTTOM = 26;
const HAS_NO_VALUE = new Set(["infeasible", "failed", "timed_out"]);

function axes(plot, x, y, { left = LEFT, bottom = plot.height - BOTTOM, xTicks = x.ticks, xName = "" } = {}) {
  for (const [value, text] of y.ticks) {
    const at = y.at(value);
    element("line", { class: "grid", x1: left, x2: plot.width - RIGHT, y1: at, y2: at }, plot.svg);
    element("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, plot.svg, text);
  }
  let free = -Infinity; // labels that would run into each other are left out
  for (const [value, text] of xTicks) {
    const at = x.at(value), half = text.length * 3.1;
    const middle = Math.min(Math.max(at, half), plot.width - half);
    if (middle - half < free) continue;
    free = middle + half + 4;
    element("text", { x: middle, y: bottom + 17, "text-anchor": "middle" }, plot.svg, text);
  }
  element("line", { class: "axis", x1: left, x2: plot.width - RIGHT, y1: bottom, y2: bottom }, plot.svg);
  if (xName) element("text", { x: plot.width - RIGHT, y: bottom - 5, "text-anchor": "end" }, plot.svg, xName);
}

// A dot (complete), a ring (pruned or running: the value is the last one known), a triangle at the edge for a value
// beyond the chart, or a cross at the bottom for a trial without a value.
function trialMark(plot, trial, x, value, y, best) {
  const bottom = plot.height - BOTTOM;
  const common = { "data-trial": trial.number };
  let at;
  if (value === null || value === undefined) {
    if (!HAS_NO_VALUE.has(trial.state)) return;
    at = bottom - 6;
    element("path", { ...common, class: "mark cross", d: `M${x - 3.5} ${at - 3.5}l7 7m0 -7l-7 7` }, plot.svg);
  } else {
    const place = y.at(value);
    at = Math.min(Math.max(place, TOP), bottom - 4);
    if (Math.abs(at - place) > 1) {
      const tip = at > place ? -6 : 6;
      element("path", { ...common, class: "mark", d: `M${x - 4} ${at - tip / 2}h8l-4 ${tip}z` }, plot.svg);
    } else {
      const ring = trial.state !== "complete" ? " hollow" : "";
      element("circle", { ...common, class: `mark${ring}`, cx: x, cy: at, r: trial.number === best ? 5.5 : 3.4 }, plot.svg);
    }
  }
  plot.marks.push({ trial: trial.number, x, y: at });
}

// Values that one run cannot tell from the best, where the noise was measured.
function tieBand(plot, data, y) {
  if (!data.tieBand) return;
  const inside = (v) => Math.min(Math.max(y.at(v), TOP - 4), plot.height - BOTTOM);
  const [top, bottom] = [inside(data.tieBand.high), inside(data.tieBand.low)];
  element("rect", { class: "tie-band", x: LEFT, y: top, width: plot.width - LEFT - RIGHT, height: Math.max(1, bottom - top) }, plot.svg);
}

// The value that a trial is drawn at; of a pruned or running one, the last known.
function valueOf(trial, objective) {
  if (trial.values) return trial.values[objective];
  return objective === 0 && !HAS_NO_VALUE.has(trial.state) ? trial.last : null;
}

function valueScale(data, objective, plot) {
  const limits = data.objectives[objective].limits ?? lastLimits(data);
  return linearScale(limits[0], limits[1], plot.height - BOTTOM - 12, TOP);
}

function lastLimits(data) {
  const values = data.trials.map((t) => t.last).filter((v) => v !== null);
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
}

function bestOf(data, objective) {
  const sign = data.objectives[objective].maximize ? 1 : -1;
  const complete = data.trials.filter((t) => t.values);
  return complete.length ? complete.reduce((a, b) => (sign * b.values[objective] > sign * a.values[objective] ? b : a)).number : null;
}

// Worst first, so that the best are drawn on top.
function inDrawingOrder(data, objective) {
  const sign = data.objectives[objective].maximize ? 1 : -1;
  const rank = (t) => (valueOf(t, objective) === null ? -Infinity : sign * valueOf(t, objective));
  return [...data.trials].sort((a, b) => rank(a) - rank(b) || a.number - b.number);
}

function drawIsolation(plot, data, view) {
  const knob = data.knobs.find((k) => k.key === plot.host.dataset.knob);
  const y = valueScale(data, view.objective, plot);
  const x = knobScale(knob, LEFT + 12, plot.width - RIGHT - 12);
  const bottom = plot.height - BOTTOM;
  axes(plot, x, y);
  if (!knob.choices.length) {
    for (const end of [knob.low, knob.high]) element("line", { class: "border", x1: x.at(end), x2: x.at(end), y1: TOP, y2: bottom }, plot.svg);
  }
  const base = knob.base === null || knob.base === undefined ? NaN : x.place(knob.base);
  if (base >= 0 && base <= 1) element("line", { class: "base", x1: x.at(knob.base), x2: x.at(knob.base), y1: TOP, y2: bottom }, plot.svg);
  if (view.objective === 0) tieBand(plot, data, y);
  const best = bestOf(data, view.objective);
  for (const trial of inDrawingOrder(data, view.objective)) {
    if (!(knob.key in trial.params)) continue;
    const spread = x.width ? (((trial.number * 0.618) % 1) - 0.5) * Math.min(0.6 * x.width, 60) : 0; // choices side by side
    trialMark(plot, trial, x.at(trial.params[knob.key]) + spread, valueOf(trial, view.objective), y, best);
  }
}

function drawHistory(plot, data, view) {
  const y = valueScale(data, 0, plot);
  const last = Math.max(1, ...data.trials.map((t) => t.number));
  const x = linearScale(0, last, LEFT + 6, plot.width - RIGHT - 6);
  axes(plot, x, y, { xTicks: x.ticks.filter(([v]) => Number.isInteger(v)), xName: "trial" });
  tieBand(plot, data, y);
  const steps = data.bestSoFar;
  if (steps.length) {
    const path = steps.map(([n, v], i) => (i ? `H${x.at(n)}V${y.at(v)}` : `M${x.at(n)} ${y.at(v)}`)).join("");
    element("path", { class: "best-line", d: `${path}H${x.at(last)}` }, plot.svg);
  }
  const best = bestOf(data, 0);
  for (const trial of data.trials) trialMark(plot, trial, x.at(trial.number), valueOf(trial, 0), y, best);
}

function drawBestOfN(plot, data) {
  const rows = data.bestOfN.filter(([, q]) => q[1] !== null);
  if (!rows.length) return;
  const all = rows.flatMap(([, q]) => q.filter((v) => v !== null));
  const [low, high] = data.objectives[0].limits ?? [Math.min(...all), Math.max(...all)];
  const y = linearScale(Math.max(low, Math.min(...all)), Math.min(high, Math.max(...all)), plot.height - BOTTOM, TOP);
  const x = linearScale(1, Math.max(2, rows.at(-1)[0]), LEFT, plot.width - RIGHT);
  axes(plot, x, y, { xTicks: [[1, "1"], ...x.ticks.filter(([v]) => Number.isInteger(v) && v > 1)], xName: "n" });
  const inside = (v) => Math.min(Math.max(v, TOP), plot.height - BOTTOM);
  const worst = data.objectives[0].maximize ? low : high; // stands for draws that find no value
  const line = (k) => rows.map(([n, q]) => [x.at(n), inside(y.at(q[k] ?? worst))]);
  const path = (points) => `M${points.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L")}`;
  element("path", { class: "band", d: `${path([...line(0), ...line(2).reverse()])}Z` }, plot.svg);
  element("path", { class: "best-line", d: path(line(1)) }, plot.svg);
}

function drawFront(plot, data) {
  const [first, second] = data.objectives;
  const x = linearScale(...first.limits, LEFT, plot.width - RIGHT);
  const y = linearScale(...second.limits, plot.height - BOTTOM, TOP);
  axes(plot, x, y, { xName: first.metric });
  element("text", { class: "name", x: LEFT + 4, y: TOP + 8 }, plot.svg, second.metric);
  const place = (t) => [x.at(t.values[0]), Math.min(Math.max(y.at(t.values[1]), TOP), plot.height - BOTTOM)];
  const onFront = new Set(data.front);
  const front = data.trials.filter((t) => onFront.has(t.number)).sort((a, b) => a.values[0] - b.values[0]);
  if (front.length) element("path", { class: "best-line", d: `M${front.map((t) => place(t).join(" ")).join("L")}` }, plot.svg);
  for (const trial of data.trials.filter((t) => t.values)) {
    const [cx, cy] = place(trial);
    if (cx < LEFT - 4) continue;
    element("circle", { class: `mark${onFront.has(trial.number) ? "" : " hollow"}`, "data-trial": trial.number, cx, cy, r: onFront.has(trial.number) ? 5 : 3.4 }, plot.svg);
    plot.marks.push({ trial: trial.number, x: cx, y: cy });
  }
}

function drawCurves(plot, data, view) {
  const lines = inDrawingOrder(data, 0).map((t) => [t, t[view.curve]]).filter(([, points]) => points.length);
  if (!lines.length) {
    element("text", { class: "name", x: LEFT, y: 30 }, plot.svg, "No curve yet: the trials' metrics.jsonl hold none.");
    return;
  }
  const ys = lines.flatMap(([, points]) => points.map(([, v]) => v)).sort((a, b) => a - b);
  const down = view.curve === "loss" || !data.objectives[0].maximize; // the hopeless tail is cut off on the bad side
  const low = down ? ys[0] : ys[Math.floor(0.05 * ys.length)];
  const high = down ? ys[Math.ceil(0.95 * (ys.length - 1))] : ys.at(-1);
  const y = linearScale(low - 0.03 * (high - low), high + 0.03 * (high - low), plot.height - BOTTOM, TOP);
  const x = linearScale(0, Math.max(...lines.map(([, points]) => points.at(-1)[0])), LEFT, plot.width - RIGHT - 4);
  axes(plot, x, y, { xName: "iteration" });
  const clip = element("clipPath", { id: "curves-clip" }, plot.svg);
  element("rect", { x: LEFT, y: TOP - 4, width: plot.width - LEFT, height: plot.height - BOTTOM - TOP + 4 }, clip);
  const group = element("g", { "clip-path": "url(#curves-clip)" }, plot.svg);
  for (const [trial, points] of lines) {
    const placed = points.map(([i, v]) => [x.at(i), y.at(v)]);
    const d = `M${placed.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L")}`;
    element("path", { class: "mark curve", "data-trial": trial.number, d }, group);
    const [endX, endY] = placed.at(-1);
    element("circle", { class: `mark${trial.state === "complete" ? "" : " hollow"}`, "data-trial": trial.number, cx: endX, cy: endY, r: 2.6 }, group);
    for (const [a, b] of placed) plot.marks.push({ trial: trial.number, x: a, y: b });
  }
}

function drawTimeline(plot, data) {
  const ran = data.trials.filter((t) => t.start !== null && t.end !== null);
  const workers = [...new Set(ran.map((t) => t.worker))].sort();
  const last = Math.max(1, ...ran.map((t) => t.end));
  const [unit, name] = last > 7200 ? [3600, "hours"] : last > 180 ? [60, "minutes"] : [1, "seconds"];
  const longest = Math.max(0, ...workers.map((w) => w.length));
  const left = Math.min(14 + 6 * longest, plot.width / 3);
  const x = linearScale(0, last / unit, left, plot.width - RIGHT);
  axes(plot, x, { ticks: [] }, { left });
  workers.forEach((worker, row) => {
    const top = TOP + row * 22;
    const shown = worker.length * 6 > left - 10 ? `…${worker.slice(-Math.floor((left - 16) / 6))}` : worker;
    element("text", { class: "name", x: left - 6, y: top + 13, "text-anchor": "end" }, plot.svg, shown);
    for (const trial of ran.filter((t) => t.worker === worker)) {
      const [a, b] = [x.at(trial.start / unit), x.at(trial.end / unit)];
      element("rect", { class: "mark", "data-trial": trial.number, x: a, y: top, width: Math.max(1.5, b - a - 1), height: 17, rx: 2 }, plot.svg);
      plot.marks.push({ trial: trial.number, x: (a + b) / 2, y: top + 8 });
    }
  });
  element("text", { class: "name", x: plot.width - RIGHT, y: plot.height - BOTTOM - 3, "text-anchor": "end" }, plot.svg, name);
}

function drawParallel(plot, data, view) {
  const top = 34, bottom = plot.height - 14, count = data.knobs.length;
  const gap = (plot.width - 2 * 44) / Math.max(1, count);
  const value = linearScale(...(data.objectives[view.objective].limits ?? lastLimits(data)), bottom, top);
  const all = data.knobs.map((knob, i) => ({ key: knob.key, name: knob.key.split(".").at(-1), x: 44 + i * gap, scale: knobScale(knob, bottom, top), of: (t) => t.params[knob.key] }));
  const goal = data.objectives[view.objective].metric;
  all.push({ key: "value", name: goal, x: 44 + count * gap, scale: value, of: (t) => valueOf(t, view.objective) ?? undefined });
  for (const trial of inDrawingOrder(data, view.objective)) {
    // Where a knob does not exist in a trial the line goes straight on to the next axis.
    const points = all.filter((a) => a.of(trial) !== undefined).map((a) => [a.x, Math.min(Math.max(a.scale.at(a.of(trial)), top - 4), bottom + 4)]);
    if (points.length < 2) continue;
    element("path", { class: "mark curve", "data-trial": trial.number, d: `M${points.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L")}` }, plot.svg);
    points.forEach(([a, b], i) => {
      plot.marks.push({ trial: trial.number, x: a, y: b });
      if (i) for (const f of [0.25, 0.5, 0.75]) plot.marks.push({ trial: trial.number, x: points[i - 1][0] + f * (a - points[i - 1][0]), y: points[i - 1][1] + f * (b - points[i - 1][1]) });
    });
  }
  all.forEach((axis, i) => {
    const anchor = i === 0 ? "start" : i === all.length - 1 ? "end" : "middle";
    const at = i === 0 ? 2 : i === all.length - 1 ? plot.width - 2 : axis.x;
    element("text", { class: `name${axis.key === "value" ? " strong" : ""}`, x: at, y: i % 2 ? 24 : 12, "text-anchor": anchor }, plot.svg, axis.name);
    element("line", { class: "axis", x1: axis.x, x2: axis.x, y1: top, y2: bottom }, plot.svg);
    for (const [v, text] of axis.scale.ticks) element("text", { x: axis.x - 5, y: axis.scale.at(v) + 4, "text-anchor": "end" }, plot.svg, text);
    const brush = view.brushes[axis.key];
    if (brush) element("rect", { class: "brush", x: axis.x - 6, width: 12, y: bottom - brush[1] * (bottom - top), height: (brush[1] - brush[0]) * (bottom - top) }, plot.svg);
    element("rect", { class: "zone", "data-axis": axis.key, x: axis.x - 14, width: 28, y: top - 6, height: bottom - top + 12 }, plot.svg);
  });
  plot.axis = { top, bottom };
}

const DRAW = {
  isolation: { draw: drawIsolation, height: () => 200 },
  history: { draw: drawHistory, height: () => 230 },
  bestOfN: { draw: drawBestOfN, height: () => 230 },
  front: { draw: drawFront, height: () => 300 },
  curves: { draw: drawCurves, height: () => 300 },
  timeline: { draw: drawTimeline, height: (data) => TOP + BOTTOM + 14 + 22 * Math.max(1, new Set(data.trials.filter((t) => t.start !== null).map((t) => t.worker)).size) },
  parallel: { draw: drawParallel, height: () => 320, width: (data) => 76 * (data.knobs.length + 1) + 30 },
};
