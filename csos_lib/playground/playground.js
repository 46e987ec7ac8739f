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

const POWERS = Float64Array.from({ length: 32 }, (_, exponent) => 2 ** (exponent - 25)); // table: 60,000 at once

/** The number whose IEEE half-precision bits these are. */
function fromHalf(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * POWERS[1] : (1024 + fraction) * POWERS[exponent];
  return bits & 0x8000 ? -size : size;
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

/** One step of memo 1, x (N,) to x' (N,), as csos_lib.dynamics.euler_step has it. Chapter 2. */
export function eulerStep(x, react, decay, alpha) {
  const mixed = x.map((v) => (1 - decay) * v);
  const made = react(mixed);
  return normalise(mixed.map((v, k) => Math.max(v + alpha * made[k], 0)));
}

/** One mirror step, log x (N,) to log x' (N,), as csos_lib.dynamics.mirror_step has it. Chapter 4. */
export function mirrorStep(logX, react, decay, alpha) {
  const made = react(concentrations(logX));
  return logSoftmax(logX.map((v, k) => (1 - decay) * v + alpha * logX.length * made[k]));
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
    for (let t = 0; t < steps; t++) x.push(eulerStep(x[t], produced, decay, alpha));
    return { x, logX: null };
  }
  for (const k of out) amounts[k] = -Infinity;
  const logX = [logSoftmax(amounts)];
  for (let t = 0; t < steps; t++) logX.push(mirrorStep(logX[t], produced, decay, alpha));
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

// --- mathematics: triangle ---------------------------------------------------------------------------------

/**
 * What the triangle's controls reach. Within it no rounding error has grown to 1e-9 over all steps
 * (tests/test_playground_views.py); beyond, the map is chaotic for some tables.
 */
export const SOUP_RANGES = { rate: [-1, 1, 0.05], alpha: [0, 1, 0.01], decay: [0, 0.9, 0.01], steps: [0, 40, 1] };

/** The six unordered pairs {i, j} of three molecules, in the order of the library: d N + i is {i, (i + d) mod N}. */
export const SOUP_PAIRS = Array.from({ length: 6 }, (_, p) => [p % 3, (p + Math.floor(p / 3)) % 3]);

/**
 * Every state of three molecules from x_0 to x_T, as csos_lib.dynamics.trajectory gives it. Chapters 2 and 4.
 * @param {Float64Array} rates (3, 6): what pair {i, j} adds to molecule k, W[k,i,j] + W[k,j,i], or W[k,i,i]
 * @param {ArrayLike<number>} start (3,), sums to 1
 * @param {{steps: number, decay: number, alpha: number, dynamics: string}} settings
 * @returns {Float64Array[]} T + 1 concentrations (3,)
 */
export function soup(rates, start, { steps, decay, alpha, dynamics }) {
  const react = (x) => produce({ packed: rates, cp: null }, x);
  const euler = dynamics === "euler";
  const step = euler ? eulerStep : mirrorStep;
  const first = Float64Array.from(start);
  const states = [euler ? first : first.map((v) => Math.log(Math.max(v, 2 ** -1022)))];
  for (let t = 0; t < steps; t++) states.push(step(states[t], react, decay, alpha));
  return euler ? states : states.map((logX) => logX.map(Math.exp));
}

const HEIGHT = Math.sqrt(3) / 2;

/** Where x (3,) lies on a triangle with corners (0, 0), (1, 0), (1/2, sqrt(3)/2). */
export function barycentric(x) {
  return [x[1] + x[2] / 2, HEIGHT * x[2]];
}

/** The concentrations (3,) at a point: the inverse of `barycentric`; a point outside goes to the edge. */
export function fromPoint([across, up]) {
  const top = up / HEIGHT;
  const inside = [1 - across - top / 2, across - top / 2, top].map((v) => Math.max(v, 0));
  const sum = inside.reduce((a, b) => a + b);
  return Float64Array.from(inside, (v) => v / sum);
}

/** Evenly spaced points inside the triangle, density (density + 1) / 2 of them (3,). */
export function simplexGrid(density) {
  const points = [];
  for (let i = 0; i < density; i++) {
    for (let j = 0; j < density - i; j++) {
      points.push(Float64Array.of(i + 1 / 3, j + 1 / 3, density - 1 - i - j + 1 / 3).map((v) => v / density));
    }
  }
  return points;
}

/** The first step at which each molecule is exactly zero, or -1 for one that is alive at the end (3,). */
export function deaths(states) {
  return [0, 1, 2].map((k) => {
    const last = states.findLastIndex((x) => x[k] > 0);
    return last === states.length - 1 ? -1 : last + 1;
  });
}

/** The same run in Python, to be pasted after `import torch`. */
export function soupCode(rates, start, { steps, decay, alpha, dynamics }) {
  const lines = [];
  rates.forEach((rate, place) => {
    const [i, j] = SOUP_PAIRS[place % 6];
    if (rate !== 0) lines.push(`W[${Math.floor(place / 6)}, ${i}, ${j}] = ${rate}`);
  });
  return [
    "from csos_lib.dynamics import trajectory",
    "",
    "W = torch.zeros(3, 3, 3, dtype=torch.float64)  # W[k, i, j]",
    ...lines,
    "",
    "def react(x):",
    '    return torch.einsum("kij,bi,bj->bk", W, x, x)',
    "",
    `x = torch.tensor([[${[...start].join(", ")}]], dtype=torch.float64)`,
    "path = trajectory(",
    `    x, react, steps=${steps}, decay=${decay},`,
    `    alpha=${alpha}, kind="${dynamics}")`,
  ].join("\n");
}

/** Rates (3, 6) from reactions [k, i, j, rate]. */
function ratesOf(...reactions) {
  const rates = new Float64Array(18);
  for (const [k, i, j, rate] of reactions) {
    rates[6 * k + (i === j ? i : 3 + (j === (i + 1) % 3 ? i : j))] = rate;
  }
  return rates;
}

/** Soups to start from: rates (3, 6), a start (3,), settings, and what to look for. */
export const SOUPS = {
  decay: {
    label: "Decay only",
    rates: ratesOf(),
    start: [0.6, 0.3, 0.1],
    settings: { steps: 20, decay: 0.1, alpha: 0.5, dynamics: "euler" },
    note: "All fade by the same share, and normalising undoes it: nothing moves. Now take the mirror step: it forgets differences, and every soup ends in the middle.",
  },
  "rock-paper-scissors": {
    label: "Rock, paper, scissors",
    names: ["rock", "paper", "scissors"],
    rates: ratesOf([0, 0, 2, 1], [0, 0, 1, -1], [1, 1, 0, 1], [1, 1, 2, -1], [2, 2, 1, 1], [2, 2, 0, -1]),
    start: [0.4, 0.3, 0.3],
    settings: { steps: 40, decay: 0, alpha: 0.5, dynamics: "euler" },
    note: "The winner makes a copy of itself out of the loser. Every round is wider than the last, and nobody ever wins. Can you calm it? Try the mirror step with a decay of 0.2.",
  },
  autocatalysis: {
    label: "Autocatalysis",
    rates: ratesOf([0, 0, 0, 1], [1, 1, 1, 1], [2, 2, 2, 1]),
    start: [0.38, 0.34, 0.28],
    settings: { steps: 30, decay: 0, alpha: 1, dynamics: "euler" },
    note: "Each molecule makes more of itself, and the richest takes all: a soft argmax. Drag the start across the middle: where does the winner change?",
  },
  death: {
    label: "Death",
    rates: ratesOf([2, 0, 1, -1]),
    start: [0.25, 0.35, 0.4],
    settings: { steps: 20, decay: 0, alpha: 1, dynamics: "euler" },
    note: "0 and 1 together use up 2, until it is cut to exactly zero; nothing makes it, so it never comes back. Now take the mirror step: 2 becomes rare, and lives.",
  },
};

// --- mathematics: sorting ----------------------------------------------------------------------------------

export const SORT_RANGES = { value: [0, 1, 0.01], tau: [0.01, 10], rounds: [1, 50, 1] };

/** exp v / sum exp v. */
function softmax(v) {
  return logSoftmax(v).map(Math.exp);
}

/** The places in descending order of the values; equal ones in the order they came. */
export function hardOrder(s) {
  return Array.from(s, (_, j) => j).sort((a, b) => s[b] - s[a]);
}

/**
 * SoftSort: row i is softmax over j of -|s_(i) - s_j| / tau. Chapter 18.
 * @param {Float64Array} s (n,)
 * @param {number} tau above 0
 * @returns {Float64Array[]} P, n rows (n,): row i is the i-th largest place, column j the value s_j
 */
export function softsort(s, tau) {
  return hardOrder(s).map((i) => softmax(s.map((v) => Math.abs(s[i] - v) / -tau)));
}

/** NeuralSort: row i is softmax over j of ((n + 1 - 2 i) s_j - sum_k |s_j - s_k|) / tau; as `softsort`. */
export function neuralsort(s, tau) {
  const n = s.length;
  const sums = s.map((v) => s.reduce((sum, w) => sum + Math.abs(v - w), 0));
  return Array.from(s, (_, i) => softmax(s.map((v, j) => ((n - 1 - 2 * i) * v - sums[j]) / tau)));
}

/**
 * Sorting by transport: Sinkhorn's rounds on -(z_j - y_i)^2 / tau, with z the standardised values and y evenly
 * spaced places, the largest first; the transpose of the library's plan, so that rows are places. Chapter 18.
 * @returns {Float64Array[]} P, n rows (n,); rows sum to 1, columns in the limit of many rounds
 */
export function sinkhornSort(s, tau, rounds) {
  const n = s.length;
  const mean = s.reduce((a, b) => a + b) / n;
  const variance = s.reduce((sum, v) => sum + (v - mean) ** 2, 0) / n;
  const z = s.map((v) => (v - mean) / Math.sqrt(variance + 1e-5));
  const unit = Math.sqrt(Math.max(n * n - 1, 1) / 3);
  let logP = Array.from(s, (_, i) => z.map((v) => (v - (n - 1 - 2 * i) / unit) ** 2 / -tau));
  for (let round = 0; round < rounds; round++) {
    const columns = s.map((_, j) => lse(Float64Array.from(logP, (row) => row[j]), 1));
    logP = logP.map((row) => logSoftmax(row.map((v, j) => v - columns[j])));
  }
  return logP.map((row) => row.map(Math.exp));
}

/** P s (n,): the softly sorted values. */
export function apply(P, s) {
  return Float64Array.from(P, (row) => row.reduce((sum, p, j) => sum + p * s[j], 0));
}

/** 1/2 + sum_j sigmoid((s_j - s_i) / tau) (n,): how many are larger, each counted softly. Chapter 18. */
export function softRank(s, tau) {
  return s.map((v) => s.reduce((rank, w) => rank + 1 / (1 + Math.exp((v - w) / tau)), 0.5));
}

/** The soft maximum tau log sum exp(s / tau), between max and max + tau log n. Chapter 19. */
export function lse(s, tau) {
  const top = s.reduce((a, b) => Math.max(a, b));
  return top + tau * Math.log(s.reduce((sum, v) => sum + Math.exp((v - top) / tau), 0));
}

/** How many entries a row of P is spread over, exp(entropy), on average over the rows: 1 is a decision. */
export function spread(P) {
  const entropy = (row) => row.reduce((sum, p) => sum - (p > 0 ? p * Math.log(p) : 0), 0);
  return P.reduce((sum, row) => sum + Math.exp(entropy(row)), 0) / P.length;
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
      const moving = [i, j, k].map((_, part) => svg("circle", { r: part === 2 ? 2 + width : 3.5, style: "visibility: hidden" }));
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
  let settled = false; // the coefficients of single reactions take longer than all else, so they come a moment later
  const settings = { steps: 5, decay: 0.1, alpha: 0.3, dynamics: "mirror", out: new Set() };
  let reaction = "cp";
  let bars = null;

  // what is seen
  const preview = el("canvas", { width: 28, height: 28, class: "csos-preview", role: "img", "aria-label": "nothing yet" });
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
    bars.fire(step < 0 || !settled ? NONE : reactions(step), fraction);
    if (!settled) return;
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
  const settle = setTimeout(() => {
    settled = true;
    show(settings.steps, 0);
    if (!prefersStill()) seen.observe(stage);
  }, 60);
  return () => {
    clearTimeout(settle);
    play.stop();
    observer.disconnect();
    seen.disconnect();
    stopTheme();
    kernel?.off("change:weights", pushed);
  };
}

const NONE = [];

// --- demo: triangle ----------------------------------------------------------------------------------------

const SIDE = 300; // of the triangle, in the units of its picture
const SUBSCRIPTS = "₀₁₂";

/** Three times the same, for molecules 0, 1, 2. */
const three = (make) => [0, 1, 2].map(make);
const minus = (text) => text.replace("-", "−");
const onPage = (x) => {
  const [across, up] = barycentric(x);
  return [40 + SIDE * across, 30 + SIDE * (HEIGHT - up)];
};

/** A share as text; what is rare but alive is not 0. */
function shareText(x) {
  if (x === 0) return "0";
  if (x >= 0.0005) return `${(100 * x).toFixed(1)} %`;
  const power = Math.floor(Math.log10(x));
  const digits = [...String(-power)].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("");
  return `${(x / 10 ** power).toFixed(0)}·10⁻${digits}`;
}

/** R(x)_k written out. */
function production(rates, k) {
  const terms = SOUP_PAIRS.map(([i, j], p) => {
    const rate = rates[6 * k + p];
    if (rate === 0) return "";
    const size = Math.abs(rate) === 1 ? "" : `${Math.abs(rate)} `;
    const pair = i === j ? `x${SUBSCRIPTS[i]}²` : `x${SUBSCRIPTS[i]} x${SUBSCRIPTS[j]}`;
    return `${rate < 0 ? "−" : "+"} ${size}${pair}`;
  });
  const text = terms.filter(Boolean).join(" ").replace(/^\+ /, "").replace(/^− /, "−");
  return `R${SUBSCRIPTS[k]} = ${text || "0"}`;
}

/** A finger drags this part of a picture and does not scroll the page: touch-action does not reach into SVG. */
function holdTouch(part) {
  part.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
}

async function mountTriangle(element, { model }) {
  let rates = new Float64Array(18);
  let start = [1, 1, 1];
  let settings = { steps: 0, decay: 0, alpha: 0, dynamics: "euler" };
  let states = [];
  let crowd = []; // of each soup of the crowd: its states
  let now = [0, 0]; // the step that is shown, and the fraction of the way to the next

  // the picture
  const corners = [Float64Array.of(1, 0, 0), Float64Array.of(0, 1, 0), Float64Array.of(0, 0, 1)];
  const names = three((k) => svg("text", { x: onPage(corners[k])[0], y: k === 2 ? 15 : 30 + SIDE * HEIGHT + 27 }));
  const grid = simplexGrid(12);
  const arrows = svg("path", { class: "csos-tri-arrows" });
  const dots = grid.map(() => svg("circle", { r: 3 }));
  const swarm = svg("g", { class: "csos-tri-swarm" }, ...dots);
  const whole = svg("path", { class: "csos-tri-path" });
  const walked = svg("path", { class: "csos-tri-walked" });
  const marks = svg("path", { class: "csos-tri-marks" });
  const head = svg("circle", { class: "csos-tri-now", r: 7 });
  const handle = svg(
    "g",
    { class: "csos-tri-handle", tabindex: 0, role: "slider", "aria-label": "Start of the soup; arrow keys move it across the triangle", "aria-valuemin": 0, "aria-valuemax": 100 },
    svg("circle", { class: "csos-tri-touch", r: 26 }),
    svg("circle", { class: "csos-tri-grip", r: 10 }),
  );
  const picture = svg(
    "svg",
    { class: "csos-tri-picture", viewBox: `0 0 ${SIDE + 80} ${Math.round(SIDE * HEIGHT) + 64}`, role: "group", "aria-label": "Triangle of three molecules. In a corner the soup is pure, in the middle it is an even mixture." },
    svg("polygon", { class: "csos-tri-edge", points: corners.map(onPage).join(" ") }),
    svg("g", { "aria-hidden": "true" }, arrows, swarm, whole, marks, walked, ...corners.map((x, k) => svg("circle", { class: `csos-tri-${k}`, cx: onPage(x)[0], cy: onPage(x)[1], r: 6 })), ...names, head),
    handle,
  );

  // shares over time
  const bands = three((k) => svg("path", { class: `csos-tri-${k}` }));
  const cursor = svg("line", { class: "csos-tri-cursor", y1: 0, y2: 60 });
  const bandNames = three(() => svg("text", { x: 5 }));
  const history = svg(
    "svg",
    { class: "csos-tri-history", viewBox: "0 0 300 60", role: "img", "aria-label": "Shares of the three molecules at every step, stacked; the table below has the numbers of the step that is shown" },
    ...bands,
    ...bandNames,
    cursor,
  );
  const cells = three(() => [el("td"), el("td")]);
  const fate = el(
    "table",
    { class: "csos-tri-table" },
    el("thead", {}, el("tr", {}, ...["molecule", "share", "state"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...three((k) => el("tr", {}, el("th", { scope: "row" }, el("span", { class: `csos-tri-chip csos-tri-${k}` }), String(k)), ...cells[k]))),
  );

  // what can be set
  const live = liveRegion({ class: "csos-status" });
  const note = el("p", { class: "csos-tri-note" });
  const play = player({ steps: 1, seconds: 0.16, onstep: (t, fraction) => show(t, fraction) });
  const change = (key) => (value) => {
    settings[key] = value;
    compute();
  };
  const range = (key, label, format) => {
    const [min, max, step] = SOUP_RANGES[key];
    return slider({ label, min, max, step, value: min, format, oninput: change(key) });
  };
  const controls = {
    alpha: range("alpha", "strength α", (v) => v.toFixed(2)),
    decay: range("decay", "decay", (v) => v.toFixed(2)),
    steps: range("steps", "steps T"),
  };
  const dynamics = choice({
    legend: "Step",
    options: [["euler", "Euler"], ["mirror", "mirror"]],
    value: "euler",
    onchange: change("dynamics"),
  });
  const around = choice({
    legend: "Show",
    options: [["arrows", "one step from everywhere"], ["crowd", "a crowd of soups"]],
    value: "arrows",
    onchange: (value) => {
      if (value === "arrows") return show(...now);
      if (prefersStill()) return show(...now);
      play.set(settings.steps, 0);
      play.play();
    },
  });
  const presets = Object.entries(SOUPS).map(([key, { label }]) =>
    button(label, () => take(key, true), { "data-key": key, "aria-pressed": "false" }),
  );
  const dice = button("Throw dice", () => {
    const [low, high] = SOUP_RANGES.rate;
    for (let place = 0; place < 18; place++) {
      rates[place] = Math.random() < 0.4 ? 0 : Math.round(10 * (low + (high - low) * Math.random())) / 10 + 0;
    }
    ownTable();
    fillTable();
    compute(true);
  }, { class: "csos-button csos-tri-dice" });
  const formulas = three(() => el("li"));
  const inputs = Array.from({ length: 18 }, (_, place) => {
    const [k, pair] = [Math.floor(place / 6), SOUP_PAIRS[place % 6]];
    const [min, max, step] = SOUP_RANGES.rate;
    return el("input", {
      type: "number",
      min,
      max,
      step,
      "aria-label": `${pair.join(" + ")} makes ${k}`,
      oninput: ({ target }) => {
        const rate = target.valueAsNumber;
        const valid = rate >= min && rate <= max;
        target.setAttribute("aria-invalid", String(!valid));
        if (!valid) return;
        rates[place] = rate;
        target.classList.toggle("csos-tri-none", rate === 0);
        ownTable();
        compute();
      },
      onchange: fillTable,
    });
  });
  const table = el(
    "table",
    { class: "csos-tri-rates" },
    el("caption", {}, "How strongly a pair makes a molecule, from −1 (uses it up) to 1: W[k, i, j] + W[k, j, i]."),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "pair"), ...three((k) => el("th", { scope: "col" }, "makes ", el("span", { class: `csos-tri-chip csos-tri-${k}` }), String(k))))),
    el("tbody", {}, ...SOUP_PAIRS.map((pair, p) => el("tr", {}, el("th", { scope: "row" }, pair.join(" + ")), ...three((k) => el("td", {}, inputs[6 * k + p]))))),
  );
  const code = el("pre", { tabindex: 0, role: "group", "aria-label": "The same run in Python" });
  element.replaceChildren(
    el(
      "div",
      { class: "csos-tri" },
      el("div", { class: "csos-buttons", role: "group", "aria-label": "Soups to start from" }, ...presets, dice),
      note,
      el(
        "div",
        { class: "csos-tri-stage" },
        el("div", { class: "csos-tri-left" }, picture, play.root),
        el("div", { class: "csos-tri-right" }, dynamics.root, controls.alpha.root, controls.decay.root, controls.steps.root, around.root, history, fate, el("ul", { class: "csos-tri-formulas", "aria-label": "Production R(x)" }, ...formulas)),
      ),
      live.root,
      el("details", { class: "csos-more" }, el("summary", {}, "Edit the reactions W"), table),
      el(
        "details",
        { class: "csos-more" },
        el("summary", {}, "The same in Python"),
        code,
        el("p", { class: "csos-note" }, "The page and this code compute with 64-bit numbers. Tests hold every state to within 0.000000001 of the library, at random settings of everything above. Beyond these ranges some tables are chaotic: rounding grows from step to step, and no two programs would agree."),
      ),
    ),
  );

  const line = (points) => `M${points.map((point) => point.map((v) => v.toFixed(1)).join()).join("L")}`;
  const between = (path, t, fraction) => {
    const [a, b] = [onPage(path[t]), onPage(path[Math.min(t + 1, path.length - 1)])];
    return a.map((v, axis) => v + fraction * (b[axis] - v));
  };

  /** The state at step t, `fraction` of the way to the next. */
  function show(t, fraction) {
    now = [t, fraction];
    const point = between(states, t, fraction);
    walked.setAttribute("d", line([...states.slice(0, t + 1).map(onPage), point]));
    head.setAttribute("cx", point[0]);
    head.setAttribute("cy", point[1]);
    const isCrowd = around.value === "crowd";
    swarm.style.display = isCrowd ? "" : "none";
    arrows.style.display = isCrowd ? "none" : "";
    if (isCrowd) {
      dots.forEach((dot, place) => {
        const [x, y] = between(crowd[place], t, fraction);
        dot.setAttribute("cx", x.toFixed(1));
        dot.setAttribute("cy", y.toFixed(1));
      });
    }
    const place = (300 * (t + fraction)) / Math.max(settings.steps, 1);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    if (fraction > 0 && t === shown) return;
    shown = t;
    cells.forEach(([share, state], k) => {
      share.textContent = shareText(states[t][k]);
      state.textContent = states[t][k] > 0 ? "alive" : `dead since step ${states.findIndex((x) => x[k] === 0)}`;
    });
  }
  let shown = -1;

  /** All states for the settings, then play them or show the end. */
  function compute(andPlay = false) {
    const { steps } = settings;
    states = soup(rates, start, settings);
    crowd = grid.map((x) => soup(rates, x, settings));
    const points = states.map(onPage);
    whole.setAttribute("d", line(points));
    marks.setAttribute("d", points.map((point) => `${line([point])}h0`).join(""));
    arrows.setAttribute("d", grid.map((x) => arrow(onPage(x), onPage(soup(rates, x, { ...settings, steps: 1 })[1]))).join(""));
    handle.setAttribute("transform", `translate(${onPage(start).map((v) => v.toFixed(1))})`);
    handle.setAttribute("aria-valuenow", Math.round(100 * start[2]));
    handle.setAttribute("aria-valuetext", three((k) => `${k}: ${shareText(start[k])}`).join(", "));
    three((k) => bands[k].setAttribute("d", band(k)));
    formulas.forEach((item, k) => (item.textContent = production(rates, k)));
    code.textContent = soupCode(rates, start, settings);
    shown = -1;
    play.set(steps, steps);
    if (andPlay && !prefersStill()) play.play();
    else show(steps, 0);
    const dead = deaths(states);
    const ends = three((k) => (dead[k] < 0 ? `${k}: ${shareText(states[steps][k])}` : `${k}: dead since step ${dead[k]}`));
    live.say(`After ${steps} ${settings.dynamics === "euler" ? "Euler" : "mirror"} steps: molecule ${ends.join(", ")}.`);
  }

  /** An arrow of half the way from a to b. */
  function arrow([ax, ay], [bx, by]) {
    const [dx, dy] = [(bx - ax) / 2, (by - ay) / 2];
    const length = Math.hypot(dx, dy);
    const [tx, ty] = [ax + dx, ay + dy];
    if (length < 0.4) return `M${ax.toFixed(1)},${ay.toFixed(1)}h0`;
    const size = Math.min(4, length / 2) / length;
    const barb = (side) => [tx - size * (dx + side * 0.6 * dy), ty - size * (dy - side * 0.6 * dx)];
    return line([[ax, ay], [tx, ty]]) + line([barb(1), [tx, ty], barb(-1)]);
  }

  /** The outline of the k-th share over time, on top of those before it. */
  function band(k) {
    const edge = (top) =>
      states.map((x, t) => [(300 * t) / Math.max(settings.steps, 1), 60 - 60 * x.slice(0, top).reduce((a, b) => a + b, 0)]);
    const middle = 60 - 60 * (start.slice(0, k).reduce((a, b) => a + b, 0) + start[k] / 2);
    bandNames[k].textContent = start[k] > 0.2 ? k : "";
    bandNames[k].setAttribute("y", middle + 4);
    const [low, high] = [edge(k), edge(k + 1)];
    if (states.length === 1) for (const side of [low, high]) side.push([300, side[0][1]]);
    return `${line([...high, ...low.reverse()])}Z`;
  }

  function fillTable() {
    inputs.forEach((input, place) => {
      input.value = rates[place];
      input.setAttribute("aria-invalid", "false");
      input.classList.toggle("csos-tri-none", rates[place] === 0);
    });
  }

  function name(own = ["", "", ""]) {
    names.forEach((text, k) => (text.textContent = `${k} ${own[k]}`.trim()));
  }

  function ownTable() {
    for (const item of presets) item.setAttribute("aria-pressed", "false");
    note.textContent = "Your own table of reactions. Where do its soups end?";
    name();
  }

  function take(key, andPlay) {
    const preset = SOUPS[key];
    rates = preset.rates.slice();
    start = preset.start;
    settings = { ...preset.settings };
    for (const [setting, control] of Object.entries(controls)) control.set(settings[setting]);
    dynamics.set(settings.dynamics);
    for (const item of presets) item.setAttribute("aria-pressed", String(item.dataset.key === key));
    note.textContent = preset.note;
    name(preset.names);
    fillTable();
    compute(andPlay);
  }

  /** Move the start to a point of the page, on a grid of thousandths. */
  function move(point) {
    const [x0, x1] = fromPoint([(point[0] - 40) / SIDE, HEIGHT - (point[1] - 30) / SIDE]).map((v) => Math.round(1000 * v));
    start = [x0, x1, 1000 - x0 - x1].map((v) => v / 1000);
    compute();
  }

  const pointed = (event) => {
    const frame = picture.getBoundingClientRect();
    const unit = picture.viewBox.baseVal.width / frame.width;
    move([(event.clientX - frame.left) * unit, (event.clientY - frame.top) * unit]);
  };
  let pointer = null;
  holdTouch(handle);
  picture.addEventListener("pointerdown", (event) => {
    // A finger beside the handle scrolls the page; a tap there is a click.
    if (event.button > 0 || (event.pointerType === "touch" && !handle.contains(event.target))) return;
    event.preventDefault();
    pointer = event.pointerId;
    picture.setPointerCapture(pointer);
    handle.focus({ preventScroll: true, focusVisible: false });
    pointed(event);
  });
  picture.addEventListener("pointermove", (event) => {
    if (event.pointerId === pointer) pointed(event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    picture.addEventListener(end, () => {
      pointer = null;
    });
  }
  picture.addEventListener("click", pointed);
  handle.addEventListener("keydown", (event) => {
    const far = event.shiftKey ? 20 : 4;
    const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
    const step = moves[event.key];
    if (!step) return;
    event.preventDefault();
    move(onPage(start).map((v, axis) => v + step[axis]));
  });

  const first = model?.get("preset") ?? element.dataset.preset;
  take(first in SOUPS ? first : "rock-paper-scissors", false);
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    if (now[0] === settings.steps) play.play(); // once, and only if nobody has touched it
  }, { threshold: 0.7 });
  if (!prefersStill()) seen.observe(picture);
  return () => {
    play.stop();
    seen.disconnect();
  };
}

// --- demo: sorting -----------------------------------------------------------------------------------------

const BARS = 7;
const CELL = 30; // the side of a cell of the matrix, in the units of the picture
const [LEFT, BASE, TOP, FULL] = [30, 130, 152, 100]; // of the columns, the bars, the matrix; the height of 1
const LETTERS = "abcdefg";
const PLACES = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th"];
const SORTS = {
  softsort: {
    label: "SoftSort",
    note: "Row i asks which bars are close to the i-th largest. Its first row is also the slope of the soft maximum.",
  },
  neuralsort: {
    label: "NeuralSort",
    note: "Sorts without sorting. Its exponents grow with the number of bars: for the same blur it needs about 7 times the τ.",
  },
  sinkhorn: {
    label: "Sinkhorn",
    note: "Carries the standardised bars to seven evenly spaced places, fair to both sides; the colder, the more rounds it needs.",
  },
};

async function mountSorting(element) {
  let s = Float64Array.of(0.45, 0.9, 0.2, 0.62, 0.3, 0.78, 0.55);
  let tau = 0.1;
  let frame = 0;

  // the picture: bars above, the matrix below them, what it makes of them to its right
  const column = (j) => LEFT + CELL * j;
  const each = (make) => Array.from({ length: BARS }, (_, j) => make(j));
  const bars = each((j) => svg("rect", { class: "csos-sort-bar", x: column(j) + 4, width: CELL - 8 }));
  const values = each((j) => svg("text", { x: column(j) + CELL / 2, class: "csos-sort-value" }));
  const columns = each((j) =>
    svg(
      "g",
      { class: "csos-sort-column", role: "slider", tabindex: 0, "aria-label": `bar ${LETTERS[j]}`, "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": 1 },
      svg("rect", { class: "csos-sort-touch", x: column(j), y: 4, width: CELL, height: BASE + 14 }),
      bars[j],
      values[j],
      svg("text", { x: column(j) + CELL / 2, y: BASE + 14 }, LETTERS[j]),
    ),
  );
  const right = column(BARS);
  const band = svg("rect", { class: "csos-sort-band", x: LEFT, width: BARS * CELL });
  const softLine = svg("line", { class: "csos-sort-soft", x1: LEFT, x2: right + 6 });
  const hardLine = svg("line", { class: "csos-sort-hard", x1: LEFT, x2: right + 6 });
  const softText = svg("text", { class: "csos-sort-left csos-sort-softtext", x: right + 9 });
  const hardText = svg("text", { class: "csos-sort-left", x: right + 9 });
  const squares = each((i) => each((j) => svg("rect", { class: "csos-sort-p", x: column(j) + CELL / 2, y: TOP + CELL * i + CELL / 2 })));
  const frames = each((i) => svg("rect", { class: "csos-sort-exact", y: TOP + CELL * i + 1.5, width: CELL - 3, height: CELL - 3, rx: 3 }));
  const sorted = each((i) => svg("rect", { class: "csos-sort-out", x: right + 12, y: TOP + CELL * i + 9, height: 12 }));
  const ticks = each((i) => svg("line", { class: "csos-sort-hard", y1: TOP + CELL * i + 5, y2: TOP + CELL * i + 25 }));
  const numbers = each((i) => svg("text", { class: "csos-sort-number", x: right + 100, y: TOP + CELL * i + 19 }));
  const lines = [...Array(BARS + 1).keys()].map(
    (k) => `M${LEFT},${TOP + CELL * k}h${BARS * CELL}M${column(k)},${TOP}v${BARS * CELL}`,
  );
  const picture = svg(
    "svg",
    { class: "csos-sort-picture", viewBox: `0 0 ${right + 104} ${TOP + BARS * CELL + 4}`, role: "group", "aria-label": "Seven bars; drag them, or change them with the arrow keys. Below, the soft permutation matrix, and to its right the softly sorted values." },
    svg("g", { "aria-hidden": "true" }, band),
    ...columns,
    svg(
      "g",
      { "aria-hidden": "true", class: "csos-sort-rest" },
      hardLine,
      softLine,
      softText,
      hardText,
      svg("path", { class: "csos-sort-grid", d: lines.join("") }),
      ...squares.flat(),
      ...frames,
      ...each((i) => svg("text", { x: LEFT - 15, y: TOP + CELL * i + 19 }, PLACES[i])),
      svg("text", { class: "csos-sort-left", x: right + 12, y: TOP - 8 }, "softly sorted"),
      ...sorted,
      ...ticks,
      ...numbers,
    ),
  );

  // what can be set
  const live = liveRegion({ class: "csos-status" });
  const method = choice({
    legend: "Sort by",
    options: Object.entries(SORTS).map(([key, { label }]) => [key, label]),
    value: "softsort",
    onchange: () => draw(),
  });
  const [cold, hot] = SORT_RANGES.tau.map(Math.log10);
  const heat = slider({
    label: "temperature τ",
    min: cold,
    max: hot,
    step: 0.02,
    value: Math.log10(tau),
    format: (power) => (10 ** power).toPrecision(2),
    oninput: (power) => {
      stop();
      tau = 10 ** power;
      draw();
    },
  });
  const [few, many, one] = SORT_RANGES.rounds;
  const rounds = slider({ label: "rounds", min: few, max: many, step: one, value: 10, oninput: () => draw() });
  const cool = button("Cool down", () => (frame ? stop() : anneal()), { class: "csos-button csos-play" });
  const buttons = el(
    "div",
    { class: "csos-buttons" },
    cool,
    button("Shuffle", () => glide(shuffled(s))),
    button("New bars", () => glide(s.map(() => Math.round(5 + 90 * Math.random()) / 100))),
    button("Make a tie", () => {
      const [first, second] = hardOrder(s);
      glide(s.map((v, j) => (j === second ? s[first] : v)));
    }),
  );
  const note = el("p", { class: "csos-note" });
  const sums = el("p");
  const bounds = el("p", { class: "csos-sort-bounds" });
  const gauge = svg("circle", { cy: 9, r: 6 });
  const scale = svg(
    "svg",
    { class: "csos-sort-gauge", viewBox: "0 0 300 18", "aria-hidden": "true" },
    svg("path", { d: "M8,9H292M8,3V15M292,3V15" }),
    gauge,
  );
  const table = el("table", { class: "csos-sort-table" });
  const details = el("details", { class: "csos-more" }, el("summary", {}, "The numbers as a table"), el("div", { class: "csos-sort-scroll", tabindex: 0, role: "group", "aria-label": "The numbers as a table" }, table));
  element.replaceChildren(
    el(
      "div",
      { class: "csos-sort" },
      el(
        "div",
        { class: "csos-sort-stage" },
        picture,
        el(
          "div",
          { class: "csos-sort-side" },
          heat.root,
          buttons,
          method.root,
          rounds.root,
          note,
          sums,
          el("p", { class: "csos-sort-title" }, "The soft maximum"),
          bounds,
          scale,
          el("p", { class: "csos-note" }, "The dot says how much of the allowed excess τ log 7 it uses: none when one bar is far ahead, all when the bars are equal."),
        ),
      ),
      live.root,
      details,
    ),
  );

  const heightOf = (value) => BASE - FULL * value;
  const two = (value) => value.toFixed(2);

  function draw() {
    const kind = method.value;
    const P = kind === "sinkhorn" ? sinkhornSort(s, tau, rounds.value) : { softsort, neuralsort }[kind](s, tau);
    const order = hardOrder(s);
    const soft = apply(P, s);
    const most = s[order[0]];
    const maximum = lse(s, tau);
    const bound = most + tau * Math.log(BARS);

    s.forEach((value, j) => {
      bars[j].setAttribute("y", heightOf(value));
      bars[j].setAttribute("height", FULL * value);
      values[j].setAttribute("y", heightOf(value) + (value > 0.15 ? 12 : -4));
      values[j].classList.toggle("csos-sort-inside", value > 0.15);
      values[j].textContent = two(value);
      columns[j].setAttribute("aria-valuenow", two(value));
      columns[j].setAttribute("aria-valuetext", `${two(value)}, ${PLACES[order.indexOf(j)]} of ${BARS}`);
    });
    const y = Math.max(heightOf(maximum), 8);
    softLine.setAttribute("y1", y);
    softLine.setAttribute("y2", y);
    softText.setAttribute("y", Math.min(y + 4, heightOf(most) - 8));
    softText.textContent = `soft ${two(maximum)}${heightOf(maximum) < 8 ? " ↑" : ""}`;
    hardLine.setAttribute("y1", heightOf(most));
    hardLine.setAttribute("y2", heightOf(most));
    hardText.setAttribute("y", heightOf(most) + 5);
    hardText.textContent = `max ${two(most)}`;
    const ceiling = Math.max(heightOf(bound), 2);
    band.setAttribute("y", ceiling);
    band.setAttribute("height", heightOf(most) - ceiling);

    P.forEach((row, i) => {
      row.forEach((p, j) => {
        const side = (CELL - 6) * Math.sqrt(p);
        squares[i][j].setAttribute("width", side);
        squares[i][j].setAttribute("height", side);
        squares[i][j].setAttribute("transform", `translate(${-side / 2} ${-side / 2})`);
      });
      frames[i].setAttribute("x", column(order[i]) + 1.5);
      sorted[i].setAttribute("width", 50 * soft[i]);
      for (const end of ["x1", "x2"]) ticks[i].setAttribute(end, right + 12 + 50 * s[order[i]]);
      numbers[i].textContent = two(soft[i]);
    });

    const { label, note: about } = SORTS[kind];
    rounds.root.hidden = kind !== "sinkhorn";
    note.textContent = about;
    const used = s.map((_, j) => P.reduce((sum, row) => sum + row[j], 0));
    sums.textContent =
      `Each place mixes ${spread(P).toFixed(1)} bars on average. Rows sum to 1, ` +
      `columns to ${two(Math.min(...used))} ... ${two(Math.max(...used))}.`;
    bounds.textContent = `${two(most)} ≤ ${maximum.toFixed(3)} ≤ ${two(bound)} = max + τ log ${BARS}`;
    gauge.setAttribute("cx", 8 + (284 * (maximum - most)) / (tau * Math.log(BARS)));
    fillTable(P, soft);
    live.say(
      `${label} at τ = ${tau.toPrecision(2)}: softly sorted ${[...soft].map(two).join(", ")}. Soft maximum ${two(maximum)}, maximum ${two(most)}.`,
    );
  }

  function fillTable(P, soft) {
    const ranks = softRank(s, tau);
    const head = (text, scope) => el("th", { scope }, text);
    table.replaceChildren(
      el("caption", {}, "Row i says from which bars the i-th largest value is mixed."),
      el("thead", {}, el("tr", {}, head("place", "col"), ...each((j) => head(`${LETTERS[j]} ${two(s[j])}`, "col")), head("mixture", "col"))),
      el(
        "tbody",
        {},
        ...P.map((row, i) => el("tr", {}, head(PLACES[i], "row"), ...[...row, soft[i]].map((p) => el("td", {}, two(p))))),
        el("tr", {}, head("soft rank", "row"), ...[...ranks].map((rank) => el("td", {}, two(rank))), el("td")),
      ),
    );
  }

  function shuffled(list) {
    const next = list.slice();
    for (let j = next.length - 1; j > 0; j--) {
      const other = Math.floor(Math.random() * (j + 1));
      [next[j], next[other]] = [next[other], next[j]];
    }
    return next;
  }

  function stop() {
    cancelAnimationFrame(frame);
    frame = 0;
    cool.textContent = "Cool down";
  }

  /** Call onpart with 0 ... 1 over some seconds, or with 1 at once for who wants no motion. */
  function animate(seconds, onpart) {
    stop();
    let begin = null;
    const tick = (time) => {
      begin ??= time;
      const part = prefersStill() ? 1 : Math.min((time - begin) / (1000 * seconds), 1);
      frame = part < 1 ? requestAnimationFrame(tick) : 0;
      onpart(part);
      if (part === 1) stop();
    };
    frame = requestAnimationFrame(tick);
  }

  function glide(target) {
    const from = s;
    animate(0.6, (part) => {
      const way = part * part * (3 - 2 * part);
      s = part === 1 ? target : from.map((v, j) => v + way * (target[j] - v));
      draw();
    });
  }

  function anneal() {
    const from = tau > 0.02 ? Math.log10(tau) : hot;
    animate(6 * Math.max((from - cold) / (hot - cold), 0.3), (part) => {
      tau = 10 ** (from + part * (cold - from));
      heat.set(Math.log10(tau));
      draw();
    });
    cool.textContent = "Pause";
  }

  function set(j, value) {
    stop();
    s = s.slice();
    s[j] = Math.round(100 * Math.min(Math.max(value, 0), 1)) / 100;
    draw();
  }

  columns.forEach((root, j) => {
    let held = null;
    holdTouch(root);
    const pointed = (event) => {
      const box = picture.getBoundingClientRect();
      set(j, (BASE - ((event.clientY - box.top) * picture.viewBox.baseVal.width) / box.width) / FULL);
    };
    root.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      event.preventDefault();
      held = event.pointerId;
      root.setPointerCapture(held);
      root.focus({ preventScroll: true, focusVisible: false });
      pointed(event);
    });
    root.addEventListener("pointermove", (event) => {
      if (event.pointerId === held) pointed(event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      root.addEventListener(end, () => {
        held = null;
      });
    }
    root.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: 0.01, ArrowRight: 0.01, ArrowDown: -0.01, ArrowLeft: -0.01, PageUp: 0.1, PageDown: -0.1, Home: -1, End: 1 };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      set(j, s[j] + step);
    });
  });
  draw();
  return stop;
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
