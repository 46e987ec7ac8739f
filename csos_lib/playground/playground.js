/**
 * The playground: the reactions of the book, computed in the browser.
 *
 * One module for three places: the published page (mount.js), a live notebook (anywidget calls `render`), and
 * node (the tests compare the mathematics with csos_lib). Plain JavaScript, all numbers float64.
 * Shapes are given as in the library: N molecules, P = N (N + 1) / 2 unordered pairs, T steps.
 */

// --- mathematics: weights ----------------------------------------------------------------------------------

/**
 * @typedef {Object} Model
 * @property {Object} recipe the arguments of csos_lib.CSOS: num_basis, steps, decay, alpha, reaction, rank, dynamics
 * @property {Object} header everything the file says about itself: accuracy, trained_on, sha256, ...
 * @property {Float64Array} encoder (N, 784)
 * @property {Float64Array} bias (N,)
 * @property {{left: Float64Array, right: Float64Array, out: Float64Array, rank: number}|null} cp
 *   A (R, N), B (R, N), C (N, R)
 * @property {Float64Array} packed (N, P), the coefficient of every pair; pair d N + i is {i, (i + d) mod N}
 */

const EPSILON = 1e-8; // csos_lib.simplex.EPSILON
const TINY = Math.sqrt(2 ** -1022); // below this the mirror step takes a concentration for 0
export const PIXELS = 784;
export const CLASSES = 10;

/** The number whose IEEE half-precision bits these are. */
function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/**
 * Read a file of named arrays: the length of the header (uint32), the header (JSON), the arrays, little-endian.
 * @param {ArrayBuffer} buffer
 * @returns {{header: Object, arrays: Object<string, Float64Array>}}
 */
export function parseArrays(buffer) {
  const view = new DataView(buffer);
  const length = view.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const readers = {
    uint8: [1, (place) => view.getUint8(place)],
    float16: [2, (place) => fromHalf(view.getUint16(place, true))],
    float32: [4, (place) => view.getFloat32(place, true)],
    float64: [8, (place) => view.getFloat64(place, true)],
  };
  const arrays = {};
  let place = 4 + length;
  for (const { name, dtype, shape } of header.arrays) {
    const [bytes, read] = readers[dtype];
    const count = shape.reduce((a, b) => a * b, 1);
    const values = new Float64Array(count);
    for (let i = 0; i < count; i++, place += bytes) values[i] = read(place);
    arrays[name] = values;
  }
  return { header, arrays };
}

/**
 * @param {ArrayBuffer} buffer what csos_lib.playground.pack_weights wrote
 * @returns {Model}
 */
export function parseModel(buffer) {
  const { header, arrays } = parseArrays(buffer);
  const recipe = header.recipe;
  const size = recipe.num_basis;
  const cp =
    recipe.reaction === "cp"
      ? { left: arrays.left, right: arrays.right, out: arrays.out, rank: recipe.rank }
      : null;
  let packed = arrays.weight ?? null;
  return {
    recipe,
    header,
    encoder: arrays.encoder,
    bias: arrays.bias,
    cp,
    get packed() {
      packed ??= packFactors(cp, size); // only the drawing of single reactions asks for it
      return packed;
    },
  };
}

/** The coefficients (N, P) of every pair from the factors: C[k,r] (A[r,i] B[r,j] + A[r,j] B[r,i]). */
function packFactors({ left, right, out, rank }, size) {
  const pairs = (size * (size + 1)) / 2;
  const packed = new Float64Array(size * pairs);
  const both = new Float64Array(pairs);
  for (let r = 0; r < rank; r++) {
    for (let p = 0; p < pairs; p++) {
      const i = r * size + (p % size);
      const j = r * size + (((p % size) + Math.floor(p / size)) % size);
      both[p] = i === j ? left[i] * right[i] : left[i] * right[j] + left[j] * right[i];
    }
    for (let k = 0, place = 0; k < size; k++) {
      const share = out[k * rank + r];
      for (let p = 0; p < pairs; p++) packed[place++] += share * both[p];
    }
  }
  return packed;
}

// --- mathematics: the reaction -----------------------------------------------------------------------------

/** matrix (rows, columns) times vector (columns,). */
function multiply(matrix, vector, rows) {
  const columns = vector.length;
  const result = new Float64Array(rows);
  for (let row = 0, place = 0; row < rows; row++) {
    let sum = 0;
    for (let column = 0; column < columns; column++) sum += matrix[place++] * vector[column];
    result[row] = sum;
  }
  return result;
}

/** v / (sum v + 1e-8). Chapter 1. */
export function normalise(v) {
  let sum = EPSILON;
  for (const value of v) sum += value;
  return v.map((value) => value / sum);
}

/** v - log sum exp v. */
export function logSoftmax(v) {
  const top = v.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (const value of v) sum += Math.exp(value - top);
  const shift = top + Math.log(sum);
  return v.map((value) => value - shift);
}

/**
 * What reacts: R(x) (N,) from x (N,). Chapters 2 and 5.
 * @param {Model} model
 * @param {Float64Array} x
 */
export function produce(model, x) {
  const size = x.length;
  if (model.cp) {
    const { left, right, out, rank } = model.cp;
    const a = multiply(left, x, rank);
    const b = multiply(right, x, rank);
    return multiply(out, a.map((value, r) => value * b[r]), size);
  }
  const pairs = new Float64Array((size * (size + 1)) / 2);
  for (let p = 0; p < pairs.length; p++) pairs[p] = x[p % size] * x[(p + Math.floor(p / size)) % size];
  return multiply(model.packed, pairs, size);
}

/**
 * Every state from x_0 to x_T, and its logarithm for the mirror step.
 * @param {Model} model
 * @param {ArrayLike<number>} image (784,) in [0, 1]
 * @param {{steps: number, decay: number, alpha: number, dynamics: string, out?: Set<number>}} settings
 *   out: molecules that are knocked out: not injected, not made, in no reaction
 * @returns {{x: Float64Array[], logX: Float64Array[]|null}} T + 1 states (N,)
 */
export function trajectory(model, image, settings) {
  const size = model.recipe.num_basis;
  const { steps, decay, alpha, dynamics, out = new Set() } = settings;
  const amounts = multiply(model.encoder, Float64Array.from(image), size);
  for (let k = 0; k < size; k++) amounts[k] += model.bias[k];
  const produced = (x) => {
    const r = produce(model, x);
    for (const k of out) r[k] = 0;
    return r;
  };
  if (dynamics === "euler") {
    for (const k of out) amounts[k] = 0;
    const x = [normalise(amounts.map((v) => Math.max(v, 0)))];
    for (let t = 0; t < steps; t++) {
      const m = x[t].map((v) => (1 - decay) * v);
      const r = produced(m);
      x.push(normalise(m.map((v, k) => Math.max(v + alpha * r[k], 0))));
    }
    return { x, logX: null };
  }
  for (const k of out) amounts[k] = -Infinity;
  const logX = [logSoftmax(amounts)];
  for (let t = 0; t < steps; t++) {
    const r = produced(concentrations(logX[t]));
    logX.push(logSoftmax(logX[t].map((v, k) => (1 - decay) * v + alpha * size * r[k])));
  }
  return { x: logX.map((state) => state.map(Math.exp)), logX };
}

/** exp(log x), with what is too small to matter as 0, as csos_lib.dynamics.mirror_step has it. */
function concentrations(logX) {
  return logX.map((v) => {
    const x = Math.exp(v);
    return x > TINY ? x : 0;
  });
}

/**
 * Log-probabilities (10,) read at step t. Chapter 3.
 * @param {{x: Float64Array[], logX: Float64Array[]|null}} states
 */
export function readout({ x, logX }, t) {
  if (logX) return logSoftmax(logX[t].slice(0, CLASSES));
  return x[t].slice(0, CLASSES).map((v) => Math.log(v + EPSILON));
}

/**
 * The reactions i + j -> k that move most concentration from step t to t + 1.
 * For the Euler step: what the pair adds to x_k. For the mirror step, which multiplies: to first order,
 * x'_k (p_k - sum_l x'_l p_l) with p_k the part of the pair in log x'_k, so a part common to all k counts nothing.
 * @param {Model} model
 * @param {{x: Float64Array[], logX: Float64Array[]|null}} states
 * @returns {{i: number, j: number, k: number, strength: number}[]} the largest |strength| first
 */
export function strongest(model, states, t, settings, count = 6) {
  const size = model.recipe.num_basis;
  const pairs = (size * (size + 1)) / 2;
  const { decay, alpha, dynamics, out = new Set() } = settings;
  const { packed } = model;
  const mirror = dynamics === "mirror";
  const x = mirror ? states.x[t] : states.x[t].map((v) => (1 - decay) * v);
  const after = states.x[t + 1];
  let scale = alpha * size;
  if (!mirror) {
    const r = produce(model, x);
    let sum = EPSILON;
    for (let k = 0; k < size; k++) if (!out.has(k)) sum += Math.max(x[k] + alpha * r[k], 0);
    scale = alpha / sum;
  }
  const most = 2 * packed.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
  const found = [];
  let least = 0;
  for (let p = 0; p < pairs; p++) {
    const i = p % size;
    const j = (i + Math.floor(p / size)) % size;
    const meet = scale * x[i] * x[j];
    if (meet * most <= least) continue; // no product of this pair can be among them
    let mean = 0;
    if (mirror) for (let k = 0; k < size; k++) mean += after[k] * packed[k * pairs + p];
    for (let k = 0; k < size; k++) {
      if (after[k] === 0) continue;
      const strength = meet * (mirror ? after[k] * (packed[k * pairs + p] - mean) : packed[k * pairs + p]);
      if (Math.abs(strength) <= least) continue;
      found.push({ i: Math.min(i, j), j: Math.max(i, j), k, strength });
      found.sort((a, b) => Math.abs(b.strength) - Math.abs(a.strength));
      if (found.length > count) found.pop();
      if (found.length === count) least = Math.abs(found[count - 1].strength);
    }
  }
  return found;
}

// --- mathematics: strokes ----------------------------------------------------------------------------------

/**
 * Strokes as MNIST has its digits: fitted into a box of 20 x 20 pixels, antialiased, and moved by whole pixels
 * so that the centre of mass is at the middle of 28 x 28.
 * @param {[number, number][][]} strokes points (x, y) of each stroke, any unit
 * @param {number} pen the radius of the pen in that unit; in the box it is kept between 1 and 1.6 pixels, the
 *   widths of MNIST
 * @returns {Float64Array|null} (784,) in [0, 1], or null if there is no point
 */
export function prepare(strokes, pen) {
  const points = strokes.flat();
  if (points.length === 0) return null;
  const [left, top] = [0, 1].map((axis) => Math.min(...points.map((point) => point[axis])));
  const [right, bottom] = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis])));
  const extent = Math.max(right - left, bottom - top);
  const radius = Math.min(Math.max((pen * 20) / (extent + 2 * pen), 1), 1.6);
  const scale = Math.min((20 - 2 * radius) / extent, 5 / pen); // a dot stays a dot
  const shift = [(20 - scale * (right - left)) / 2 - scale * left, (20 - scale * (bottom - top)) / 2 - scale * top];
  const box = new Float64Array(400);
  const place = ([x, y]) => [scale * x + shift[0], scale * y + shift[1]];
  for (const stroke of strokes) {
    let from = place(stroke[0]);
    for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) {
      const to = place(point);
      drawSegment(box, 20, from, to, radius);
      from = to;
    }
  }
  return centre(box);
}

/** Blacken what a round pen covers from a to b, in an image (side, side); a pixel on its edge in part. */
function drawSegment(image, side, a, b, radius) {
  const reach = radius + 0.5;
  const [low, high] = [0, 1].map((axis) => [
    Math.max(Math.floor(Math.min(a[axis], b[axis]) - reach), 0),
    Math.min(Math.ceil(Math.max(a[axis], b[axis]) + reach), side),
  ]).reduce(([l, h], [low, high]) => [[...l, low], [...h, high]], [[], []]);
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const length = dx * dx + dy * dy;
  for (let row = low[1]; row < high[1]; row++) {
    for (let column = low[0]; column < high[0]; column++) {
      const [px, py] = [column + 0.5 - a[0], row + 0.5 - a[1]];
      const along = length === 0 ? 0 : Math.min(Math.max((px * dx + py * dy) / length, 0), 1);
      const ink = Math.min(Math.max(reach - Math.hypot(px - along * dx, py - along * dy), 0), 1);
      image[row * side + column] = Math.max(image[row * side + column], ink);
    }
  }
}

/** A box (20, 20) in a field (28, 28), its centre of mass at pixel (14, 14) as nearly as whole pixels allow. */
function centre(box) {
  let [mass, across, down] = [0, 0, 0];
  box.forEach((ink, place) => {
    mass += ink;
    across += ink * (place % 20);
    down += ink * Math.floor(place / 20);
  });
  const [right, low] = [across, down].map((sum) => Math.min(Math.max(Math.round(14 - sum / mass), 0), 8));
  const field = new Float64Array(PIXELS);
  box.forEach((ink, place) => {
    field[(Math.floor(place / 20) + low) * 28 + (place % 20) + right] = ink;
  });
  return field;
}

// --- small interface helpers -------------------------------------------------------------------------------

/**
 * An HTML element. Keys that begin with "on" are listeners; true and false set and leave out an attribute.
 * @param {string} tag
 * @param {Object} [attributes]
 * @param {...(Node|string)} children
 */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element, like `el`. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** @returns {HTMLButtonElement} */
export function button(label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "csos-button", onclick, ...attributes }, label);
}

let ids = 0;

/**
 * A labelled slider that prints its value.
 * @param {{label: string, min: number, max: number, step: number, value: number,
 *   format?: (value: number) => string, oninput?: (value: number) => void}} options
 * @returns {{root: HTMLElement, input: HTMLInputElement, value: number, set: (value: number) => void}}
 *   `set` does not call oninput
 */
export function slider({ label, min, max, step, value, format = String, oninput = () => {} }) {
  const id = `csos-control-${ids++}`;
  const output = el("output", { for: id });
  const input = el("input", { type: "range", id, min, max, step });
  const show = () => {
    output.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  const control = {
    root: el("div", { class: "csos-slider" }, el("label", { for: id }, label), input, output),
    input,
    get value() {
      return Number(input.value);
    },
    set(next) {
      input.value = next;
      show();
    },
  };
  input.addEventListener("input", () => {
    show();
    oninput(Number(input.value));
  });
  control.set(value);
  return control;
}

/**
 * A group of radio buttons.
 * @param {{legend: string, options: [string, string][], value: string, onchange: (value: string) => void}} options
 *   options are pairs (value, label)
 * @returns {{root: HTMLElement, value: string, set: (value: string) => void}} `set` does not call onchange
 */
export function choice({ legend, options, value, onchange }) {
  const name = `csos-control-${ids++}`;
  const inputs = options.map(([key]) =>
    el("input", { type: "radio", name, value: key, onchange: () => onchange(key) }),
  );
  const labels = options.map(([, label], i) => el("label", {}, inputs[i], label));
  const control = {
    root: el("fieldset", { class: "csos-choice" }, el("legend", {}, legend), ...labels),
    get value() {
      return inputs.find((input) => input.checked)?.value ?? value;
    },
    set(next) {
      for (const input of inputs) input.checked = input.value === next;
    },
  };
  control.set(value);
  return control;
}

/** Whether the reader asked for less motion: then states change at once, and nothing starts by itself. */
export function prefersStill() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** A colour of playground.css, such as "--csos-ink", as it is now at this element. */
export function colour(element, name) {
  return getComputedStyle(element).getPropertyValue(name).trim();
}

/**
 * Call `repaint` when the page changes between light and dark (what is drawn on a canvas does not follow CSS).
 * @returns {() => void} stops it
 */
export function onTheme(repaint) {
  const observer = new MutationObserver(repaint);
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, { attributeFilter: ["data-theme", "data-jp-theme-light"] });
  }
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", repaint);
  return () => {
    observer.disconnect();
    scheme.removeEventListener("change", repaint);
  };
}

/**
 * A live region: what is said there is read aloud, once it has stood for half a second.
 * @returns {{root: HTMLElement, say: (text: string) => void}}
 */
export function liveRegion(attributes = {}) {
  const root = el("p", { role: "status", "aria-live": "polite", ...attributes });
  let timer = 0;
  return {
    root,
    say(text) {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (root.textContent !== text) root.textContent = text;
      }, 500);
    },
  };
}

/**
 * Play, pause and scrub through steps 0 ... T.
 * @param {{steps: number, seconds?: number, onstep: (t: number, fraction: number) => void}} options
 *   onstep gets the step t and how far it is on the way to t + 1, in [0, 1); seconds: the time of one step
 * @returns {{root: HTMLElement, set: (steps: number, t: number) => void, play: () => void, stop: () => void}}
 */
export function player({ steps, seconds = 0.7, onstep }) {
  let frame = 0;
  let count = steps;
  const scrub = slider({
    label: "step",
    min: 0,
    max: steps,
    step: 1,
    value: steps,
    format: (t) => `${t} of ${count}`,
    oninput: (t) => {
      stop();
      onstep(t, 0);
    },
  });
  const toggle = button("Play", () => (frame ? stop() : play()), { class: "csos-button csos-play" });
  const stop = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    toggle.textContent = "Play";
  };
  const play = () => {
    stop();
    const last = count;
    const from = scrub.value >= last ? 0 : scrub.value;
    const still = prefersStill();
    let start = null;
    toggle.textContent = "Pause";
    const tick = (now) => {
      start ??= now;
      const passed = from + (now - start) / (1000 * seconds);
      const t = Math.min(Math.floor(passed), last);
      if (t !== scrub.value) scrub.set(t);
      onstep(t, still || t >= last ? 0 : passed - t);
      if (t >= last) stop();
      else frame = requestAnimationFrame(tick);
    };
    scrub.set(from);
    frame = requestAnimationFrame(tick);
  };
  return {
    root: el("div", { class: "csos-player" }, toggle, scrub.root),
    play,
    stop,
    set(next, t) {
      stop();
      count = next;
      scrub.input.max = count;
      scrub.set(t);
    },
  };
}

// --- demo: digit -------------------------------------------------------------------------------------------

const PAD = 280; // the side of the drawing pad in its own units
const PEN = 11; // the radius of its pen
const FILES = {
  mirror: { cp: "mirror-cp", dense: "mirror-dense" },
  euler: { cp: "memo-cp", dense: "memo" },
};
/** Ranges in which the reaction is not chaotic: page and library agree at every setting (tests/test_playground.py). */
export const RANGES = {
  mirror: { alpha: [0, 1, 0.01], decay: [0, 0.9, 0.01], steps: [0, 20, 1] },
  euler: { alpha: [0, 3, 0.05], decay: [0, 0.9, 0.01], steps: [0, 20, 1] },
};

const percent = (p) => `${(100 * p).toFixed(p > 0.0005 && p < 0.0995 ? 1 : 0)} %`;
const logText = (v) => (Number.isFinite(v) ? Math.min(v, 0).toFixed(v > -9.95 ? 1 : 0).replace("-", "−") : "−∞");
const signed = (v) => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(3);

/** Paint an image (784,) on a canvas of 28 x 28, ink in the colour of text. */
function paintImage(canvas, image) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, 28, 28);
  context.fillStyle = colour(canvas, "--csos-ink");
  for (let place = 0; image && place < PIXELS; place++) {
    context.globalAlpha = image[place];
    if (image[place] > 0) context.fillRect(place % 28, Math.floor(place / 28), 1, 1);
  }
  context.globalAlpha = 1;
}

/** Arrow keys, Home and End move the focus among elements of which one at a time is a tab stop. */
function roving(root, items, columns) {
  const go = (to) => {
    for (const item of items) item.tabIndex = -1;
    items[to].tabIndex = 0;
    items[to].focus();
  };
  items.forEach((item, place) => {
    item.tabIndex = place === 0 ? 0 : -1;
    item.addEventListener("focus", () => {
      for (const other of items) other.tabIndex = other === item ? 0 : -1;
    });
  });
  root.addEventListener("keydown", (event) => {
    const place = items.indexOf(event.target);
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
    let to = place + (moves[event.key] ?? NaN);
    if (event.key === "Home") to = 0;
    if (event.key === "End") to = items.length - 1;
    if (place < 0 || Number.isNaN(to)) return;
    event.preventDefault();
    go(Math.min(Math.max(to, 0), items.length - 1));
  });
}

/**
 * Where a digit is drawn: strokes of mouse, finger or pen.
 * @param {(image: Float64Array|null, done: boolean) => void} ondraw done: the pen was lifted
 */
function drawingPad(ondraw) {
  const canvas = el("canvas", {
    width: 2 * PAD,
    height: 2 * PAD,
    class: "csos-pad",
    role: "img",
    "aria-label": "Drawing pad for mouse, finger or pen. With a keyboard, choose a digit from the strip instead.",
  });
  const hint = el("p", { class: "csos-hint", "aria-hidden": "true" }, "draw a digit here");
  let strokes = [];
  let shown = null; // an image from the strip, in place of strokes
  const repaint = () => {
    const context = canvas.getContext("2d");
    context.setTransform(2, 0, 0, 2, 0, 0);
    context.clearRect(0, 0, PAD, PAD);
    context.strokeStyle = context.fillStyle = colour(canvas, "--csos-ink");
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = 2 * PEN;
    for (const [first, ...rest] of strokes) {
      context.beginPath();
      context.moveTo(...first);
      for (const point of rest.length ? rest : [first]) context.lineTo(...point);
      context.stroke();
    }
    for (let place = 0; shown && place < PIXELS; place++) {
      context.globalAlpha = shown[place];
      if (shown[place] > 0) context.fillRect((place % 28) * 10, Math.floor(place / 28) * 10, 10.2, 10.2);
    }
    context.globalAlpha = 1;
    hint.hidden = strokes.length > 0 || shown !== null;
  };
  const add = (event) => {
    const frame = canvas.getBoundingClientRect();
    const events = event.getCoalescedEvents?.() ?? [];
    for (const { clientX, clientY } of events.length ? events : [event]) {
      const point = [clientX - frame.left, clientY - frame.top].map((v) => (v * PAD) / frame.width);
      strokes.at(-1).push(point);
    }
  };
  let pointer = null;
  let waiting = 0;
  const changed = (done) => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      repaint();
      ondraw(prepare(strokes, PEN), done);
    });
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button > 0) return;
    event.preventDefault();
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    shown = null;
    strokes.push([]);
    add(event);
    changed(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    add(event);
    changed(false);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      changed(true);
    });
  }
  return {
    root: el("div", { class: "csos-pad-frame" }, canvas, hint),
    repaint,
    /** Show an image (784,), or nothing, in place of the strokes. */
    show(image) {
      strokes = [];
      shown = image;
      repaint();
    },
  };
}

/** The molecules as bars: the ten classes above, the others below, and between them the reactions that fire. */
function moleculeBars(size, onknock) {
  const tiles = Array.from({ length: size }, (_, k) => {
    const bar = el("span", { class: "csos-bar" });
    const parts = [el("span", { class: "csos-bar-frame" }, bar)];
    const texts = k < CLASSES ? [el("b", {}, String(k)), el("small"), el("small")] : [];
    const root = el(
      "button",
      { type: "button", class: "csos-molecule", "aria-pressed": "false", onclick: () => onknock(k) },
      ...parts,
      ...texts,
    );
    return { root, bar, texts };
  });
  const roots = tiles.map((tile) => tile.root);
  const classes = el("div", { class: "csos-classes" }, ...roots.slice(0, CLASSES));
  const others = el("div", { class: "csos-others" }, ...roots.slice(CLASSES));
  const arcs = svg("svg", { class: "csos-arcs", "aria-hidden": "true" });
  const gap = el("div", { class: "csos-gap" });
  const root = el(
    "div",
    { class: "csos-molecules", role: "group", "aria-label": "Molecules; press one to knock it out" },
    classes,
    gap,
    others,
    arcs,
  );
  const count = size - CLASSES;
  let columns = count;
  roving(root, roots, () => (roots.indexOf(document.activeElement) < CLASSES ? CLASSES : columns));

  let anchors = [];
  let middle = 0;
  const measure = () => {
    const frame = root.getBoundingClientRect();
    const least = frame.width < 480 ? 16 : 10.5; // wide enough for a finger on a phone
    const lines = Math.max(Math.ceil((count * least) / Math.max(frame.width, 1)), 1);
    columns = Math.ceil(count / lines);
    others.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
    arcs.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    anchors = roots.map((tile, k) => {
      const box = tile.getBoundingClientRect();
      return [box.left + box.width / 2 - frame.left, (k < CLASSES ? box.bottom : box.top) - frame.top];
    });
    const space = gap.getBoundingClientRect();
    middle = space.top + space.height / 2 - frame.top;
  };

  let drawn = null;
  let dots = [];
  /** Lay out curves for the fired reactions; `at` then moves their dots. */
  const lay = (fired) => {
    drawn = fired;
    dots = [];
    const most = Math.max(...fired.map(({ strength }) => Math.abs(strength)), 1e-3);
    const groups = fired.map(({ i, j, k, strength }, place) => {
      const meet = [(anchors[i][0] + anchors[j][0] + anchors[k][0]) / 3, middle + ((place % 3) - 1) * 18];
      const curve = ([x, y]) => {
        const half = (y + meet[1]) / 2;
        return `M${x},${y} C${x},${half} ${meet[0]},${half} ${meet[0]},${meet[1]}`;
      };
      const width = 1 + (4 * Math.abs(strength)) / most;
      const paths = [i, j, k].map((molecule) =>
        svg("path", { d: curve(anchors[molecule]), "stroke-width": molecule === k ? width : Math.min(width, 2) }),
      );
      const sign = svg("text", { x: meet[0], y: meet[1] + 4 }, strength < 0 ? "−" : "+");
      const moving = [i, j, k].map((_, part) => svg("circle", { r: part === 2 ? 2 + width : 3.5 }));
      dots.push({ paths, moving });
      const ring = svg("circle", { class: "csos-meet", cx: meet[0], cy: meet[1], r: 7 });
      return svg("g", { class: strength < 0 ? "csos-taken" : "csos-made" }, ...paths, ring, sign, ...moving);
    });
    arcs.replaceChildren(...groups);
  };
  /** @param {number} fraction of the way from one step to the next: first two meet, then the third is made */
  const at = (fraction) => {
    for (const { paths, moving } of dots) {
      moving.forEach((dot, part) => {
        const made = part === 2;
        const way = made ? 2 - 2 * fraction : 2 * fraction; // curves run from the molecule to the meeting
        dot.style.visibility = fraction > 0 && way >= 0 && way <= 1 ? "visible" : "hidden";
        if (dot.style.visibility === "hidden") return;
        const { x, y } = paths[part].getPointAtLength(way * paths[part].getTotalLength());
        dot.setAttribute("cx", x);
        dot.setAttribute("cy", y);
      });
    }
  };

  return {
    root,
    measure() {
      measure();
      if (drawn) lay(drawn);
    },
    /** Heights of the bars from concentrations (N,): the square root, so that 1 % can be seen. */
    heights(x) {
      tiles.forEach(({ bar }, k) => {
        bar.style.transform = `scaleY(${Math.sqrt(x[k])})`;
      });
    },
    /** Numbers and names, once the bars are at rest. */
    label(x, logP, out, answer) {
      tiles.forEach(({ root: tile, texts }, k) => {
        const name = k < CLASSES ? `molecule ${k}, the digit ${k}` : `molecule ${k}`;
        const text = out.has(k) ? `${name}: knocked out` : `${name}: ${percent(x[k])}`;
        tile.setAttribute("aria-label", text);
        tile.title = text;
        tile.setAttribute("aria-pressed", String(out.has(k)));
        tile.classList.toggle("csos-answer-molecule", k === answer);
        if (k >= CLASSES) return;
        texts[1].textContent = out.has(k) ? "out" : percent(x[k]);
        texts[2].textContent = logText(logP[k]);
      });
    },
    /** Show reactions and how far they are; only a new list is laid out again. */
    fire(fired, fraction) {
      if (fired !== drawn) lay(fired);
      arcs.classList.toggle("csos-moving", fraction > 0);
      at(fraction);
    },
  };
}

async function mountDigit(element, { load, model: kernel }) {
  let model = null;
  let image = null;
  let states = null;
  let fired = [];
  let drawTimer = 0;
  const settings = { steps: 5, decay: 0.1, alpha: 0.3, dynamics: "mirror", out: new Set() };
  let reaction = "cp";
  let bars = null;

  // what is seen
  const preview = el("canvas", { width: 28, height: 28, class: "csos-preview", role: "img", "aria-label": "" });
  const pad = drawingPad((drawn, done) => {
    chosen(null);
    take(drawn, done ? "play" : "end");
  });
  const clear = button("Clear", () => {
    pad.show(null);
    chosen(null);
    take(null, "end");
  });
  const big = el("p", { class: "csos-big", "aria-hidden": "true" }, "");
  const sure = el("p", { class: "csos-sure", "aria-hidden": "true" }, "");
  const live = liveRegion({ class: "csos-status" });
  const strip = el("div", { class: "csos-strip", role: "group", "aria-label": "Bundled test digits to choose from" });
  const stage = el("div", { class: "csos-stage" });
  const list = el("ul", { class: "csos-fired" });
  const listTitle = el("p", { class: "csos-note" });
  const outText = el("p");
  const back = button("Put all back", () => {
    settings.out.clear();
    compute("end");
  });
  const outLine = el("div", { class: "csos-out", hidden: true }, outText, back);
  const play = player({ steps: 5, seconds: 0.9, onstep: (t, fraction) => show(t, fraction) });
  const about = el("p", { class: "csos-note" });

  // what can be set
  const change = (key) => (value) => {
    settings[key] = value;
    compute("end");
  };
  const digits = (places) => (value) => value.toFixed(places);
  const controls = {
    alpha: slider({ label: "strength α", min: 0, max: 1, step: 0.01, value: 0.3, format: digits(2), oninput: change("alpha") }),
    decay: slider({ label: "decay", min: 0, max: 0.9, step: 0.01, value: 0.1, format: digits(2), oninput: change("decay") }),
    steps: slider({ label: "steps T", min: 0, max: 12, step: 1, value: 5, oninput: change("steps") }),
  };
  const kinds = {
    dynamics: choice({
      legend: "Step",
      options: [["mirror", "mirror (chapter 4)"], ["euler", "Euler (memo 1)"]],
      value: "mirror",
      onchange: (value) => choose(value, reaction),
    }),
    reaction: choice({
      legend: "Reaction",
      options: [["cp", "low rank (chapter 5)"], ["dense", "dense"]],
      value: "cp",
      onchange: (value) => choose(settings.dynamics, value),
    }),
  };
  const more = el(
    "details",
    { class: "csos-more" },
    el("summary", {}, "Change the reaction"),
    el(
      "div",
      { class: "csos-controls" },
      kinds.dynamics.root,
      kinds.reaction.root,
      controls.alpha.root,
      controls.decay.root,
      controls.steps.root,
      el(
        "div",
        { class: "csos-buttons" },
        button("Memo 1's defaults", () => choose("euler", "dense")),
        button("As it was trained", () => adopt(model)),
      ),
      about,
    ),
  );
  element.replaceChildren(
    el(
      "div",
      { class: "csos-digit" },
      el(
        "div",
        { class: "csos-in" },
        pad.root,
        el(
          "div",
          { class: "csos-side" },
          el("div", { class: "csos-answer" }, big, sure),
          el("figure", { class: "csos-seen" }, preview, el("figcaption", { class: "csos-note" }, "what the network sees")),
          clear,
        ),
      ),
      el("p", { class: "csos-note" }, "or choose a test digit (arrow keys, then Enter):"),
      strip,
      live.root,
      el("p", { class: "csos-note" }, "Molecules 0 to 9 above (share, log-probability), the others below; the answer compares only the ten. Press one to knock it out. Heights are square roots, so that 1 % can be seen."),
      stage,
      play.root,
      listTitle,
      list,
      outLine,
      more,
    ),
  );

  /** A new image: `then` is "play" (from the start) or "end" (show the last step). */
  function take(next, then) {
    image = next;
    paintImage(preview, image);
    preview.setAttribute("aria-label", image ? "the digit as 28 by 28 pixels, centred" : "nothing yet");
    if (kernel) {
      clearTimeout(drawTimer);
      drawTimer = setTimeout(() => {
        kernel.set("pixels", new DataView(Float32Array.from(image ?? new Float64Array(PIXELS)).buffer));
        kernel.save_changes();
      }, 150);
    }
    compute(then);
  }

  /** All states for the image and the settings, then show them. */
  function compute(then) {
    if (!model || !bars) return;
    play.stop();
    states = image ? trajectory(model, image, settings) : null;
    fired = [];
    play.set(settings.steps, settings.steps);
    if (then === "play" && states && settings.steps > 0 && !prefersStill()) play.play();
    else show(settings.steps, 0);
    const out = [...settings.out].sort((a, b) => a - b);
    outLine.hidden = out.length === 0;
    outText.textContent = `Knocked out: ${out.join(", ")}.`;
    speak(out);
  }

  /** The answer at the last step, for the live region. */
  function speak(out) {
    if (!states) return live.say("Nothing is drawn yet.");
    const logP = readout(states, settings.steps);
    const answer = best(logP);
    const without = out.length ? ` without ${out.length === 1 ? "molecule" : "molecules"} ${out.join(", ")}` : "";
    live.say(
      answer === null
        ? "No molecule of a class is left: there is no answer."
        : `Read as ${answer}${without}, probability ${percent(Math.exp(logP[answer]))}, after ${settings.steps} steps.`,
    );
  }

  /** The class of which there is most, or null if there is none. */
  function best(logP) {
    const top = logP.reduce((a, v, k) => (v > logP[a] ? k : a), 0);
    return logP[top] > Math.log(2 * EPSILON) && !settings.out.has(top) ? top : null;
  }

  /** What fires between t and t + 1. */
  function reactions(t) {
    fired[t] ??= strongest(model, states, t, settings);
    return fired[t];
  }

  /** The state at step t, `fraction` of the way to the next. */
  function show(t, fraction) {
    if (!states) {
      bars.heights(new Float64Array(model.recipe.num_basis));
      bars.label(new Float64Array(model.recipe.num_basis), new Float64Array(CLASSES).fill(-Infinity), settings.out, null);
      bars.fire([], 0);
      big.textContent = sure.textContent = "";
      listTitle.textContent = "";
      list.replaceChildren();
      return;
    }
    const moving = fraction > 0;
    let x = states.x[t];
    if (moving) {
      const share = Math.max(2 * fraction - 1, 0) ** 2 * (3 - 2 * Math.max(2 * fraction - 1, 0));
      const next = states.x[t + 1];
      x = x.map((v, k) => (1 - share) * v + share * next[k]);
    }
    bars.heights(x);
    const logP = readout(states, t);
    const answer = best(logP);
    bars.label(states.x[t], logP, settings.out, answer);
    big.textContent = answer ?? "?";
    sure.textContent = answer === null ? "no answer" : percent(Math.exp(logP[answer]));
    const step = moving ? t : t - 1;
    bars.fire(step < 0 ? NONE : reactions(step), fraction);
    if (list.dataset.step !== `${step}` || !moving) tell(step);
  }

  /** The reactions of one step as words. */
  function tell(step) {
    list.dataset.step = step;
    if (step < 0) {
      listTitle.textContent = "Step 0: the image has been poured in; nothing has reacted yet.";
      list.replaceChildren();
      return;
    }
    listTitle.textContent = `Strongest reactions of step ${step + 1}, and the concentration each moved:`;
    list.replaceChildren(
      ...reactions(step).map(({ i, j, k, strength }) =>
        el("li", { class: strength < 0 ? "csos-taken" : "csos-made" }, `${i} + ${j} → ${k} `, el("b", {}, signed(strength))),
      ),
    );
  }

  /** Run with a model as it was trained. */
  function adopt(next) {
    const { recipe } = next;
    const fresh = !model || model.recipe.num_basis !== recipe.num_basis;
    model = next;
    reaction = model.cp ? "cp" : "dense";
    Object.assign(settings, { steps: recipe.steps, decay: recipe.decay, alpha: recipe.alpha, dynamics: recipe.dynamics });
    kinds.dynamics.set(recipe.dynamics);
    kinds.reaction.set(reaction);
    for (const [key, [min, max, step]] of Object.entries(RANGES[recipe.dynamics])) {
      const { input, set } = controls[key];
      Object.assign(input, { min, max: Math.max(max, recipe[key]), step });
      set(recipe[key]);
    }
    if (fresh) {
      settings.out.clear();
      bars = moleculeBars(recipe.num_basis, knock);
      stage.replaceChildren(bars.root);
      observer.disconnect();
      observer.observe(bars.root);
      bars.measure();
    }
    const { accuracy, trained_on: trained, sha256 } = model.header;
    const read = accuracy ? `It read ${percent(accuracy)} of the 1,000 bundled test digits, trained on ${trained}. ` : "";
    about.textContent =
      `${read}Weights ${sha256.slice(0, 12)}, stored in half precision; your browser computes with 64-bit numbers. ` +
      "Tests hold every concentration at every step to within 0.000001 of the Python library, for all these settings. " +
      "The sliders end where that can be promised. Beyond, the mirror step becomes chaotic: rounding grows from step to " +
      "step, and at α = 3 and T = 60 two correct programs already differ by 0.001.";
    compute("end");
  }

  function knock(k) {
    if (!settings.out.delete(k)) settings.out.add(k);
    compute("end");
  }

  async function choose(dynamics, kind) {
    live.say("Loading another reaction.");
    try {
      adopt(parseModel(await load(FILES[dynamics][kind])));
    } catch (error) {
      kinds.dynamics.set(settings.dynamics);
      kinds.reaction.set(reaction);
      live.say(`The weights could not be loaded (${error.message}).`);
    }
  }

  let thumbnails = []; // of each: canvas, image, label
  let choices = [];
  function chosen(place) {
    choices.forEach((item, other) => item.setAttribute("aria-pressed", String(other === place)));
  }

  const observer = new ResizeObserver(() => bars.measure());
  const stopTheme = onTheme(() => {
    pad.repaint();
    paintImage(preview, image);
    thumbnails.forEach(([canvas, pixels]) => paintImage(canvas, pixels));
  });
  const pushed = () => {
    const { buffer, byteOffset, byteLength } = kernel.get("weights");
    if (byteLength > 0) adopt(parseModel(buffer.slice(byteOffset, byteOffset + byteLength)));
  };

  const [digitFile, first] = await Promise.all([load("digits"), load(FILES.mirror.cp)]);
  const { images, labels } = parseArrays(digitFile).arrays;
  thumbnails = Array.from(labels, (label, place) => [
    el("canvas", { width: 28, height: 28 }),
    images.slice(place * PIXELS, (place + 1) * PIXELS).map((v) => v / 255),
    label,
  ]);
  choices = thumbnails.map(([canvas, pixels, label], place) =>
    el(
      "button",
      {
        type: "button",
        class: "csos-thumbnail",
        "aria-pressed": "false",
        "aria-label": `a ${label}, example ${(place % 2) + 1}`,
        onclick: () => {
          pad.show(pixels);
          chosen(place);
          take(pixels, "play");
        },
      },
      canvas,
    ),
  );
  strip.append(...choices);
  roving(strip, choices, () => Math.round(strip.clientWidth / choices[0].offsetWidth) || 1);
  thumbnails.forEach(([canvas, pixels]) => paintImage(canvas, pixels));
  adopt(parseModel(first));
  const start = 2 * 3; // a three
  pad.show(thumbnails[start][1]);
  chosen(start);
  take(thumbnails[start][1], "end");
  if (kernel) {
    kernel.on("change:weights", pushed);
    pushed();
  }
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    if (choices[start].getAttribute("aria-pressed") === "true") compute("play"); // once, and briefly
  }, { threshold: 0.6 });
  if (!prefersStill()) seen.observe(stage);
  return () => {
    play.stop();
    observer.disconnect();
    seen.disconnect();
    stopTheme();
    kernel?.off("change:weights", pushed);
  };
}

const NONE = [];

// --- demo: triangle ----------------------------------------------------------------------------------------

async function mountTriangle(element, { load, model }) {
  element.replaceChildren(el("p", {}, "The triangle demo is being written."));
}

// --- demo: sorting -----------------------------------------------------------------------------------------

async function mountSorting(element, { load, model }) {
  element.replaceChildren(el("p", {}, "The sorting demo is being written."));
}

// --- where the demos live ----------------------------------------------------------------------------------

/**
 * @typedef {Object} Host
 * @property {(name: string) => Promise<ArrayBuffer>} load gives the file NAME.bin of this folder
 * @property {Object|null} model the anywidget model (get, set, save_changes, on), or null on a page
 */

/**
 * Each fills an element that has the class csos-demo, and may return a function that cleans up.
 * @type {Object<string, (element: HTMLElement, host: Host) => Promise<(() => void)|void>>}
 */
export const DEMOS = { digit: mountDigit, triangle: mountTriangle, sorting: mountSorting };

/** Fill every <div data-csos-demo="NAME"> of a page without a kernel; files come from beside this module. */
export function mountAll(root = document) {
  const load = async (name) => {
    const response = await fetch(new URL(`${name}.bin`, import.meta.url));
    if (!response.ok) throw new Error(`${name}.bin: ${response.status}`);
    return response.arrayBuffer();
  };
  for (const element of root.querySelectorAll("div[data-csos-demo]:not([data-csos-ready])")) {
    element.dataset.csosReady = "";
    element.classList.add("csos-demo");
    DEMOS[element.dataset.csosDemo](element, { load, model: null }).catch((error) => {
      element.append(el("p", { role: "alert" }, `This demo could not start: ${error.message}`));
    });
  }
}

/** What anywidget calls; files are asked for by name and come as bytes from the kernel. */
async function render({ model, el: element }) {
  const waiting = new Map();
  const received = ({ file }, buffers) => {
    const { buffer, byteOffset, byteLength } = buffers[0];
    waiting.get(file)?.(buffer.slice(byteOffset, byteOffset + byteLength));
    waiting.delete(file);
  };
  model.on("msg:custom", received);
  const load = (name) =>
    new Promise((resolve) => {
      waiting.set(name, resolve);
      model.send({ file: name });
    });
  element.classList.add("csos-demo");
  element.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes Enter and the arrow keys for itself
  const cleanUp = await DEMOS[model.get("demo")](element, { load, model });
  return () => {
    model.off("msg:custom", received);
    cleanUp?.();
  };
}

export default { render };
