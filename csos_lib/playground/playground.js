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
  for (let r = 0; r < rank; r++) {
    for (let p = 0; p < pairs; p++) {
      const i = p % size;
      const j = (i + Math.floor(p / size)) % size;
      const a = left[r * size + i] * right[r * size + j];
      const both = i === j ? a : a + left[r * size + j] * right[r * size + i];
      for (let k = 0; k < size; k++) packed[k * pairs + p] += out[k * rank + r] * both;
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
  const scrub = slider({
    label: "step",
    min: 0,
    max: steps,
    step: 1,
    value: steps,
    format: (t) => `${t} of ${scrub ? scrub.input.max : steps}`,
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
    const last = Number(scrub.input.max);
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
    set(count, t) {
      stop();
      scrub.input.max = count;
      scrub.set(t);
    },
  };
}

// --- demo: digit -------------------------------------------------------------------------------------------

async function mountDigit(element, { load, model }) {
  element.replaceChildren(el("p", {}, "The digit demo is being written."));
}

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
export async function mountAll(root = document) {
  const load = async (name) => {
    const response = await fetch(new URL(`${name}.bin`, import.meta.url));
    if (!response.ok) throw new Error(`${name}.bin: ${response.status}`);
    return response.arrayBuffer();
  };
  for (const element of root.querySelectorAll("div[data-csos-demo]:not([data-csos-ready])")) {
    element.dataset.csosReady = "";
    element.classList.add("csos-demo");
    await DEMOS[element.dataset.csosDemo](element, { load, model: null });
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
  const cleanUp = await DEMOS[model.get("demo")](element, { load, model });
  return () => {
    model.off("msg:custom", received);
    cleanUp?.();
  };
}

export default { render };
