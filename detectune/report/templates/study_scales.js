// Scales and number formats of a study's charts. A scale maps a value to pixels; `place` is its position 0..1.
const short = (value) => {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(+value.toPrecision(3));
};

const TRANSFORMS = {
  linear: { to: (v) => v, from: (v) => v },
  log: { to: Math.log10, from: (v) => 10 ** v },
  one_minus_log: { to: (v) => -Math.log10(1 - v), from: (v) => 1 - 10 ** -v },
};

function niceTicks(low, high, count = 4) {
  const span = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(span));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= span * 0.999);
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n += 1) ticks.push(+(n * step).toPrecision(12));
  return ticks;
}

// Whole decades where there are two or more of them, else 1, 2 and 5 times each.
function decades(low, high) {
  const inside = (power, factors) => factors.map((f) => f * 10 ** power).filter((v) => v >= low * 0.999 && v <= high * 1.001);
  const powers = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p += 1) powers.push(p);
  const whole = powers.flatMap((p) => inside(p, [1]));
  const found = whole.length >= 2 ? whole : powers.flatMap((p) => inside(p, [1, 2, 5]));
  const every = Math.ceil(found.length / 6);
  return found.filter((_, i) => i % every === 0);
}

function linearScale(low, high, from, to) {
  const span = high > low ? high - low : 1;
  const place = (v) => (v - low) / span;
  return { place, at: (v) => from + place(v) * (to - from), ticks: niceTicks(low, low + span).map((v) => [v, short(v)]) };
}

// The scale of a searched knob. Choices get equal shares of the axis, and their middles are their places.
function knobScale(knob, from, to) {
  const at = (place) => from + place * (to - from);
  if (knob.choices.length) {
    const place = (v) => (knob.choices.indexOf(String(v)) + 0.5) / knob.choices.length;
    return { place, at: (v) => at(place(v)), ticks: knob.choices.map((c) => [c, c]), width: (to - from) / knob.choices.length };
  }
  const { to: ahead } = TRANSFORMS[knob.scale];
  const [a, b] = [ahead(knob.low), ahead(knob.high)];
  const place = (v) => (ahead(v) - a) / (b - a);
  let values = niceTicks(knob.low, knob.high);
  if (knob.scale === "log") values = decades(knob.low, knob.high);
  if (knob.scale === "one_minus_log") values = decades(1 - knob.high, 1 - knob.low).map((v) => 1 - v).reverse();
  return { place, at: (v) => at(place(v)), ticks: values.map((v) => [v, knob.scale === "one_minus_log" ? String(+v.toPrecision(4)) : short(v)]) };
}

const SVG = "http://www.w3.org/2000/svg";
function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}
