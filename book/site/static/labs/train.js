/* Laboratory B: a plain and a residual network learn the same small problem, side by side, in the page.
 *
 * `training` holds the arithmetic, all of it in 64 bits. It runs in a worker, made from its own text (a page that
 * was opened from a folder may not load a worker's file), and in the tests. The rest is the page.
 *
 * A network of depth 2n + 2: a linear layer and a ReLU, n blocks of two linear layers each, and a linear layer that
 * gives the logit of class 1. Activations are Float64Array, point by point: (N, width). All points are one batch.
 */
"use strict";

function training() {
  const EPSILON = 1e-5; // of nn.BatchNorm1d
  const MOMENTUM = 0.9;

  /* Uniform numbers in [0, 1) from a seed: mulberry32 by T. Ettinger, public domain. */
  function uniform(seed) {
    let a = seed >>> 0;
    return () => {
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  /* Standard normal numbers (Box and Muller 1958). */
  function normal(seed) {
    const random = uniform(seed);
    return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  }

  /* Two spirals: points (N, 2) and classes (N). */
  function spirals(N, seed) {
    const noise = normal(seed + 1000);
    const x = new Float64Array(2 * N);
    const y = new Float64Array(N);
    for (let n = 0; n < N; n++) {
      y[n] = n % 2;
      const t = (n - (n % 2)) / N; // along the arm
      const radius = 0.25 + 1.5 * t;
      const angle = 2.4 * Math.PI * t + Math.PI * y[n];
      x[2 * n] = radius * Math.cos(angle) + 0.05 * noise();
      x[2 * n + 1] = radius * Math.sin(angle) + 0.05 * noise();
    }
    return { x, y, N };
  }

  /* Starting weights: He's normal, biases 0. Each layer {in, out, weight: (out, in), bias: (out)}; with a norm also
   * {scale: (out), shift: (out)}. Both networks get the same; zero: each residual block begins with F = 0. */
  function start({ depth, width, norm, seed, zero, residual }) {
    const random = normal(seed);
    return Array.from({ length: depth }, (_, l) => {
      const [nin, nout] = [l === 0 ? 2 : width, l === depth - 1 ? 1 : width];
      const gain = l === depth - 1 ? 1 : 2;
      const layer = {
        in: nin,
        out: nout,
        weight: Float64Array.from({ length: nin * nout }, () => random() * Math.sqrt(gain / nin)),
        bias: new Float64Array(nout),
      };
      if (norm && l < depth - 1) {
        layer.scale = new Float64Array(nout).fill(1);
        layer.shift = new Float64Array(nout);
      }
      const last = l > 0 && l % 2 === 0 && l < depth - 1;
      if (zero && residual && last) (layer.scale ?? layer.weight).fill(0);
      return layer;
    });
  }

  const PARAMETERS = ["weight", "bias", "scale", "shift"];

  /* x W^T + b: (N, in) to (N, out). */
  function linear(layer, x, N) {
    const { in: I, out: O, weight, bias } = layer;
    const out = new Float64Array(N * O);
    for (let n = 0; n < N; n++)
      for (let o = 0; o < O; o++) {
        let sum = bias[o];
        for (let i = 0, w = o * I, a = n * I; i < I; i++) sum += weight[w++] * x[a++];
        out[n * O + o] = sum;
      }
    return out;
  }

  /* Batch normalization over N points; statistics are the batch's, or given. */
  function batchNorm(layer, z, N, given) {
    const K = layer.out;
    const mean = given?.mean ?? new Float64Array(K);
    const deviation = given?.deviation ?? new Float64Array(K);
    if (!given)
      for (let k = 0; k < K; k++) {
        let sum = 0, squares = 0;
        for (let n = 0; n < N; n++) sum += z[n * K + k] / N;
        for (let n = 0; n < N; n++) squares += (z[n * K + k] - sum) ** 2 / N;
        mean[k] = sum;
        deviation[k] = Math.sqrt(squares + EPSILON);
      }
    const hat = new Float64Array(N * K); // normalized
    const out = new Float64Array(N * K);
    for (let n = 0; n < N; n++)
      for (let k = 0; k < K; k++) {
        const i = n * K + k;
        hat[i] = (z[i] - mean[k]) / deviation[k];
        out[i] = hat[i] * layer.scale[k] + layer.shift[k];
      }
    return { out, hat, mean, deviation };
  }

  const relu = (x) => x.map((value) => (value > 0 ? value : 0));

  /* The layers as they follow each other; begins: a block begins here, ends: here it ends. */
  const roleOf = (l, depth) => ({
    head: l === depth - 1,
    begins: l > 0 && l % 2 === 1 && l < depth - 1,
    ends: l > 0 && l % 2 === 0 && l < depth - 1,
  });

  /* Points (N, 2) to logits (N). kept: for each layer what the way back needs; statistics: those of a batch before. */
  function forward(layers, residual, x, N, statistics) {
    const kept = [];
    let entered = null; // what the block was given
    layers.forEach((layer, l) => {
      const { head, begins, ends } = roleOf(l, layers.length);
      if (begins) entered = x;
      const input = x;
      x = linear(layer, x, N);
      let normed = null;
      if (layer.scale) {
        normed = batchNorm(layer, x, N, statistics?.[l]);
        x = normed.out;
      }
      if (ends && residual) x = x.map((value, i) => value + entered[i]); // F(x) + x
      if (!head) x = relu(x);
      kept.push({ input, normed, output: x });
    });
    return { logits: x, kept };
  }

  /* Mean cross-entropy of two classes, from logits (N); and the share of right answers. */
  function lossOf(logits, y) {
    let loss = 0, right = 0;
    logits.forEach((z, n) => {
      loss += (Math.max(z, 0) - z * y[n] + Math.log1p(Math.exp(-Math.abs(z)))) / y.length;
      right += (z > 0 ? 1 : 0) === y[n];
    });
    return { loss, accuracy: right / y.length };
  }

  /* g (N, out) back through x W^T + b: adds to the gradient of W and b, returns (N, in). */
  function linearBackward(layer, g, x, N, gradient) {
    const { in: I, out: O, weight } = layer;
    const { weight: byWeight, bias: byBias } = gradient;
    const back = new Float64Array(N * I);
    for (let n = 0; n < N; n++)
      for (let o = 0; o < O; o++) {
        const value = g[n * O + o];
        if (value === 0) continue;
        byBias[o] += value;
        for (let i = 0, w = o * I, a = n * I; i < I; i++, w++, a++) {
          byWeight[w] += value * x[a];
          back[a] += value * weight[w];
        }
      }
    return back;
  }

  /* The derivative of the loss by every parameter, by backpropagation: a list like `layers`. */
  function backward(layers, residual, { logits, kept }, y) {
    const N = y.length;
    const gradients = [];
    let g = logits.map((z, n) => (1 / (1 + Math.exp(-z)) - y[n]) / N); // by the logits, (N, 1)
    let around = null; // what goes back through the shortcut
    for (let l = layers.length - 1; l >= 0; l--) {
      const layer = layers[l];
      const { input, normed, output } = kept[l];
      const { head, begins, ends } = roleOf(l, layers.length);
      if (!head) g = g.map((value, i) => (output[i] > 0 ? value : 0)); // ReLU
      if (ends && residual) around = g; // the plus sign hands the gradient on, both ways
      const gradient = { weight: new Float64Array(layer.weight.length), bias: new Float64Array(layer.out) };
      if (normed) {
        const K = layer.out;
        gradient.scale = new Float64Array(K);
        gradient.shift = new Float64Array(K);
        for (let i = 0; i < g.length; i++) {
          gradient.scale[i % K] += g[i] * normed.hat[i];
          gradient.shift[i % K] += g[i];
        }
        g = g.map((value, i) => {
          const k = i % K;
          const centred = value - gradient.shift[k] / N - (normed.hat[i] * gradient.scale[k]) / N;
          return (layer.scale[k] / normed.deviation[k]) * centred;
        });
      }
      g = linearBackward(layer, g, input, N, gradient);
      if (begins && residual) g = g.map((value, i) => value + around[i]);
      gradients[l] = gradient;
    }
    return gradients;
  }

  /* A network, its optimizer, and where it stands. */
  function learner(settings, residual, data) {
    const layers = start({ ...settings, residual });
    return { layers, residual, data, rate: settings.rate, velocity: layers.map(() => ({})), losses: [], steps: 0 };
  }

  /* One step of SGD with momentum on all points. */
  function step(net) {
    const { x, y, N } = net.data;
    const pass = forward(net.layers, net.residual, x, N);
    const { loss, accuracy } = lossOf(pass.logits, y);
    const gradients = backward(net.layers, net.residual, pass, y);
    net.statistics = pass.kept.map(({ normed }) => normed);
    net.norms = gradients.map(({ weight }) => Math.hypot(...weight));
    net.losses.push(loss);
    net.accuracy = accuracy;
    net.steps += 1;
    net.layers.forEach((layer, l) => {
      for (const key of PARAMETERS) {
        if (!layer[key]) continue;
        const velocity = (net.velocity[l][key] ??= new Float64Array(layer[key].length));
        for (let i = 0; i < velocity.length; i++) {
          velocity[i] = MOMENTUM * velocity[i] + gradients[l][key][i];
          layer[key][i] -= net.rate * velocity[i];
        }
      }
    });
  }

  /* The probability of class 1 on a grid over [-2, 2]², row by row from above: (side, side). */
  function surface(net, side) {
    const x = new Float64Array(2 * side * side);
    for (let i = 0; i < side * side; i++) {
      x[2 * i] = -2 + (4 * ((i % side) + 0.5)) / side;
      x[2 * i + 1] = 2 - (4 * (Math.floor(i / side) + 0.5)) / side;
    }
    return forward(net.layers, net.residual, x, side * side, net.statistics).logits.map((z) => 1 / (1 + Math.exp(-z)));
  }

  return { backward, forward, learner, lossOf, spirals, start, step, surface };
}

/* The worker: trains both networks in slices of time, and tells the page after each. */
function trainWorker(training) {
  const net = training();
  const SIDE = 25;
  let nets = [], running = 0, most = 0;
  const tell = (withSurface) =>
    postMessage(
      nets.map((one) => ({
        steps: one.steps, losses: one.losses, accuracy: one.accuracy, norms: one.norms,
        surface: withSurface && one.steps ? net.surface(one, SIDE) : null,
      })));
  const slice = (ticket) => {
    if (ticket !== running) return;
    const until = performance.now() + 100;
    do nets.forEach((one) => net.step(one));
    while (performance.now() < until && nets[0].steps < most);
    tell(true);
    if (nets[0].steps < most) setTimeout(slice, 0, ticket);
  };
  onmessage = ({ data }) => {
    running += 1;
    if (data.settings) {
      const points = net.spirals(data.settings.points, data.settings.seed);
      nets = data.settings.residual.map((residual) => net.learner(data.settings, residual, points));
    }
    if (data.go) {
      most = data.go;
      slice(running);
    }
  };
}

const resnetbookTraining = { training };
globalThis.resnetbookTraining = resnetbookTraining;

function trainLab(root) {
  const POINTS = 120;
  const MOST = 1500;
  const source = `(${trainWorker})(${training})`;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const svg = "http://www.w3.org/2000/svg";
  const parts = {};
  let running = false, last = null, settings = null, spoken = 0;

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS(svg, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function read() {
    const number = (input) => Math.min(+input.max, Math.max(+input.min, Math.round(+input.value) || +input.min));
    const depth = 2 * Math.round(number(parts.depth) / 2);
    const shortcut = parts.shortcut.checked;
    return {
      depth, width: number(parts.width), norm: parts.norm.checked, zero: parts.zero.checked, rate: +parts.rate.value,
      seed: number(parts.seed), points: POINTS, residual: [false, shortcut],
    };
  }

  function reset() {
    running = false;
    settings = read();
    parts.depth.value = settings.depth;
    parts.depthShown.textContent = `${settings.depth} layers`;
    parts.widthShown.textContent = settings.width;
    parts.titles[1].textContent = settings.residual[1] ? "with shortcuts" : "shortcuts off: the same network again";
    parts.go.textContent = "Train";
    parts.said.textContent = "";
    last = null;
    delete root.dataset.losses;
    delete root.dataset.steps;
    worker.postMessage({ settings });
    show();
  }

  function toggle() {
    running = !running;
    parts.go.textContent = running ? "Pause" : "Train";
    spoken = last?.[0].steps ?? 0;
    worker.postMessage(running ? { go: MOST } : {});
  }

  /* Loss against steps, on a logarithmic scale from 2 down to 0.001. */
  function curves() {
    const [W, H] = [320, 150];
    const y = (loss) => (!Number.isFinite(loss) ? 0 : H * Math.log(2 / Math.min(2, Math.max(loss, 1e-3))) / Math.log(2000));
    const steps = Math.max(100, last?.[0].steps ?? 0);
    const grid = [1, 0.1, 0.01].flatMap((loss) => [
      draw("line", { x1: 0, x2: W, y1: y(loss), y2: y(loss), class: "grid" }),
      draw("text", { x: W - 2, y: y(loss) - 2, "text-anchor": "end" }, `${loss}`),
    ]);
    const lines = (last ?? []).map(({ losses }, k) => {
      const every = Math.ceil(losses.length / 320);
      const points = losses.map((loss, i) => (i % every ? "" : `${((W * i) / steps).toFixed(1)},${y(loss).toFixed(1)}`)).filter(Boolean);
      return draw("polyline", { points: points.join(" "), class: k ? "residual" : "plain" });
    });
    parts.curves.replaceChildren(...grid, ...lines);
  }

  /* One bar for each layer: the norm of the gradient of its weights, on a logarithmic scale. */
  function bars(k) {
    const norms = last?.[k].norms ?? [];
    const top = (norm) => !Number.isFinite(norm) ? 1 : Math.min(1, Math.max(0.01, (Math.log10(norm + 1e-12) + 6) / 8)); // 1e-6 to 100
    parts.bars[k].replaceChildren(
      ...norms.map((norm, l) => draw("rect", { x: (200 * l) / norms.length, width: 170 / norms.length, y: 60 * (1 - top(norm)), height: 60 * top(norm), class: k ? "residual" : "plain" })),
    );
  }

  /* The probability of class 1 as a colour, and the points. */
  function plane(k) {
    const canvas = parts.planes[k];
    const context = canvas.getContext("2d");
    const values = last?.[k].surface;
    context.clearRect(0, 0, 200, 200);
    if (values) {
      const side = Math.sqrt(values.length);
      values.forEach((p, i) => {
        context.fillStyle = p > 0.5 ? `rgba(213, 94, 0, ${2 * p - 1})` : `rgba(0, 114, 178, ${1 - 2 * p})`;
        context.fillRect((200 * (i % side)) / side, (200 * Math.floor(i / side)) / side, 200 / side, 200 / side);
      });
    }
    const { x, y, N } = parts.points;
    for (let n = 0; n < N; n++) {
      context.beginPath();
      const [px, py] = [50 * (x[2 * n] + 2), 50 * (2 - x[2 * n + 1])];
      if (y[n]) context.rect(px - 3, py - 3, 6, 6);
      else context.arc(px, py, 3.4, 0, 7);
      context.fillStyle = y[n] ? "#d55e00" : "#0072b2";
      context.fill();
      context.strokeStyle = "#fff";
      context.stroke();
    }
  }

  function show() {
    parts.points = training().spirals(settings.points, settings.seed);
    curves();
    [0, 1].forEach((k) => {
      bars(k);
      plane(k);
      const one = last?.[k];
      parts.told[k].textContent = !one ? "not trained yet" : !Number.isFinite(one.losses.at(-1)) ? "diverged: the numbers overflowed" : `loss ${one.losses.at(-1).toPrecision(2)}, ${(100 * one.accuracy).toFixed(0)} % right`;
    });
    parts.steps.textContent = `step ${last?.[0].steps ?? 0}`;
  }

  worker.onmessage = ({ data }) => {
    if (!running) return;
    last = data;
    show();
    root.dataset.losses = JSON.stringify(data.map(({ losses }) => losses.at(-1)));
    root.dataset.steps = data[0].steps;
    // A screen reader is told every hundred steps, not ten times a second.
    if (data[0].steps - spoken >= 100 || data[0].steps >= MOST) {
      spoken = data[0].steps;
      parts.said.textContent = `After ${spoken} steps: left, plain, ${parts.told[0].textContent}; right, ${parts.titles[1].textContent}, ${parts.told[1].textContent}.`;
    }
    if (data[0].steps >= MOST) toggle();
  };

  const range = (min, max, step, value) => make("input", { type: "range", min, max, step, value, oninput: reset });
  const box = (checked) => make("input", { type: "checkbox", checked, onchange: reset });
  parts.depth = range(2, 60, 2, 30);
  parts.width = range(8, 32, 4, 16);
  parts.norm = box(true);
  parts.zero = box(false);
  parts.shortcut = box(true);
  parts.rate = make("select", { onchange: reset }, ...[0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2].map((rate) => make("option", { value: rate, selected: rate === 0.02 }, `${rate}`)));
  parts.seed = make("input", { type: "number", min: 0, max: 999, value: 0, onchange: reset });
  parts.depthShown = make("output");
  parts.widthShown = make("output");
  parts.go = make("button", { type: "button", class: "start", onclick: toggle }, "Train");
  parts.steps = make("strong");
  parts.said = make("p", { "aria-live": "polite", class: "said" });
  parts.titles = [make("h2", {}, "plain"), make("h2", {}, "with shortcuts")];
  parts.planes = [0, 1].map((k) => make("canvas", { width: 200, height: 200, class: "plane", role: "img", "aria-label": `the ${k ? "right" : "left"} network's decision surface, and the points of the two spirals` }));
  parts.bars = [0, 1].map((k) => draw("svg", { viewBox: "0 0 200 60", class: "norms", role: "img", "aria-label": `norm of the gradient for each layer of the ${k ? "right" : "left"} network, first layer at the left`, preserveAspectRatio: "none" }));
  parts.told = [make("p"), make("p")];
  parts.curves = draw("svg", { viewBox: "0 0 320 150", class: "curves", role: "img", "aria-label": "training loss of both networks against steps, on a logarithmic scale" });
  const field = (text, ...inputs) => make("label", {}, `${text} `, ...inputs);
  root.replaceChildren(
    make("div", { class: "controls" },
      field("Depth", parts.depth, " ", parts.depthShown), field("Width", parts.width, " ", parts.widthShown), field("Normalization", parts.norm),
      field("Shortcuts, right", parts.shortcut), field("Last layer of each block zero, right", parts.zero), field("Learning rate", parts.rate), field("Seed", parts.seed)),
    make("div", { class: "controls" }, parts.go, make("button", { type: "button", onclick: reset }, "Start again"), parts.steps),
    make("div", { class: "pair" },
      ...[0, 1].map((k) => make("section", { class: k ? "residual" : "plain" }, parts.titles[k], parts.planes[k], parts.told[k], make("span", { class: "caption" }, "gradient by layer, 10⁻⁶ to 100"), parts.bars[k]))),
    make("p", { class: "caption" }, "Training loss: plain solid, with shortcuts dashed"),
    parts.curves, parts.said);
  reset();
}

for (const root of document.querySelectorAll("[data-lab=train]")) trainLab(root);
