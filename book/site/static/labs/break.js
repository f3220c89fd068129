/* Laboratory A: two trained networks of 20 layers run in the page, and the reader takes them apart.
 *
 * `networks` holds the arithmetic. It runs in a worker, made from its own text (a page that was opened from a
 * folder may not load a worker's file), and in the tests. The rest is the page.
 *
 * Maps are Float32Array, channel by channel, row by row: (C, H, W).
 */
"use strict";

function networks() {
  const EPSILON = 1e-5; // of nn.BatchNorm2d

  /* IEEE 754 half precision to a number: 1 sign bit, 5 bits of exponent, 10 of fraction. */
  function fromHalf(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  function bytes(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  }

  /* Weights by name, as in PyTorch's state_dict: {"layer1.0.conv1.weight": Float32Array of (K, C, 3, 3), …} */
  function unpack({ tensors, base64 }) {
    const view = new DataView(bytes(base64).buffer);
    const weights = {};
    let at = 0;
    for (const [name, shape] of tensors) {
      const size = shape.reduce((a, b) => a * b, 1);
      weights[name] = Float32Array.from({ length: size }, (_, i) => fromHalf(view.getUint16(2 * (at + i), true)));
      at += size;
    }
    return weights;
  }

  /* A 3×3 convolution with padding 1, without a bias: (C, H, H) to (K, ⌈H/stride⌉, ⌈H/stride⌉). */
  function conv3x3(x, H, weight, K, stride) {
    const C = x.length / (H * H);
    const P = H + 2; // side of the padded map
    const O = Math.ceil(H / stride);
    const padded = new Float32Array(C * P * P);
    for (let c = 0; c < C; c++)
      for (let i = 0; i < H; i++)
        padded.set(x.subarray((c * H + i) * H, (c * H + i + 1) * H), (c * P + i + 1) * P + 1);
    const out = new Float32Array(K * O * O);
    for (let k = 0; k < K; k++) {
      for (let c = 0; c < C; c++) {
        const w = (k * C + c) * 9;
        const w0 = weight[w], w1 = weight[w + 1], w2 = weight[w + 2];
        const w3 = weight[w + 3], w4 = weight[w + 4], w5 = weight[w + 5];
        const w6 = weight[w + 6], w7 = weight[w + 7], w8 = weight[w + 8];
        for (let i = 0; i < O; i++) {
          let a = (c * P + i * stride) * P; // the window's upper row, then the two below
          let to = (k * O + i) * O;
          for (let j = 0; j < O; j++, a += stride, to++) {
            const b = a + P, d = b + P;
            out[to] +=
              w0 * padded[a] + w1 * padded[a + 1] + w2 * padded[a + 2] +
              w3 * padded[b] + w4 * padded[b + 1] + w5 * padded[b + 2] +
              w6 * padded[d] + w7 * padded[d + 1] + w8 * padded[d + 2];
          }
        }
      }
    }
    return out;
  }

  /* Batch normalization with the running statistics, in place. */
  function batchNorm(x, weights, name) {
    const scales = weights[`${name}.weight`], shifts = weights[`${name}.bias`];
    const means = weights[`${name}.running_mean`], variances = weights[`${name}.running_var`];
    const places = x.length / scales.length;
    for (let k = 0; k < scales.length; k++) {
      const scale = scales[k] / Math.sqrt(variances[k] + EPSILON);
      const shift = shifts[k] - means[k] * scale;
      for (let i = k * places; i < (k + 1) * places; i++) x[i] = x[i] * scale + shift;
    }
    return x;
  }

  function relu(x) {
    for (let i = 0; i < x.length; i++) if (x[i] < 0) x[i] = 0;
    return x;
  }

  /* Shortcut option A, a copy: the identity, or every second pixel and zeros for the new channels. */
  function shortcut(x, H, K, stride) {
    if (stride === 1) return x.slice();
    const C = x.length / (H * H);
    const O = Math.ceil(H / stride);
    const out = new Float32Array(K * O * O);
    for (let c = 0; c < C; c++)
      for (let i = 0; i < O; i++)
        for (let j = 0; j < O; j++) out[(c * O + i) * O + j] = x[(c * H + i * stride) * H + j * stride];
    return out;
  }

  const BLOCKS = [1, 2, 3].flatMap((stage) => [0, 1, 2].map((i) => `layer${stage}.${i}`));
  const changesShape = (block) => block === "layer2.0" || block === "layer3.0";

  /* One block: relu(F(x) + shortcut(x)), or relu(H(x)) in a plain network. If removed, F is 0; a plain block
   * is gone altogether, which one that changes the shape cannot be. */
  function block(weights, name, x, H, residual, removed) {
    const stride = changesShape(name) ? 2 : 1;
    const K = weights[`${name}.bn1.weight`].length;
    const O = Math.ceil(H / stride);
    if (removed && !residual) {
      if (stride !== 1) throw new Error(`${name} of a plain network cannot be removed`);
      return x;
    }
    if (removed) return relu(shortcut(x, H, K, stride));
    let out = conv3x3(x, H, weights[`${name}.conv1.weight`], K, stride); // (K, O, O)
    out = relu(batchNorm(out, weights, `${name}.bn1`));
    out = conv3x3(out, O, weights[`${name}.conv2.weight`], K, 1); // (K, O, O)
    out = batchNorm(out, weights, `${name}.bn2`);
    if (residual) {
      const x0 = shortcut(x, H, K, stride);
      for (let i = 0; i < out.length; i++) out[i] += x0[i];
    }
    return relu(out);
  }

  /* One image (28 × 28, normalized) through a network.
   * lesion: {removed: [names of blocks], swapped: [two names] or null, silenced: {layer: [channels]}};
   * layers are "stem", "layer1", "layer2", "layer3".
   * Returns {logits: (10), maps: {stem: (16, 14, 14), layer1: (16, 14, 14), layer2: (32, 7, 7), layer3: (64, 4, 4)}}. */
  function forward(weights, residual, image, lesion) {
    const maps = {};
    const keep = (layer, x, H) => {
      for (const channel of lesion.silenced[layer] ?? []) x.fill(0, channel * H * H, (channel + 1) * H * H);
      maps[layer] = x.slice();
      return x;
    };
    const [first, second] = lesion.swapped ?? [];
    let H = 28;
    let x = conv3x3(image, H, weights["conv1.weight"], 16, 2); // (16, 14, 14)
    H = 14;
    x = keep("stem", relu(batchNorm(x, weights, "bn1")), H);
    for (const place of BLOCKS) {
      const name = place === first ? second : place === second ? first : place;
      x = block(weights, name, x, H, residual, lesion.removed.includes(name));
      if (changesShape(name)) H = Math.ceil(H / 2); // 14, 7, 4
      if (place.endsWith(".2")) x = keep(place.slice(0, 6), x, H);
    }
    const logits = new Float32Array(10);
    for (let k = 0; k < 10; k++) {
      let sum = weights["fc.bias"][k];
      for (let c = 0; c < 64; c++) {
        let mean = 0; // global average pooling
        for (let i = 0; i < H * H; i++) mean += x[c * H * H + i] / (H * H);
        sum += weights["fc.weight"][k * 64 + c] * mean;
      }
      logits[k] = sum;
    }
    return { logits, maps };
  }

  function softmax(logits) {
    const most = Math.max(...logits);
    const powers = Array.from(logits, (logit) => Math.exp(logit - most));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }

  const largest = (values) => values.indexOf(Math.max(...values));

  return { BLOCKS, bytes, changesShape, forward, largest, softmax, unpack };
}

/* The worker: answers for one picture at once, then for the hundred, and stops if another question comes. */
function breakWorker(networks) {
  const net = networks();
  const known = {};
  let hundred = null; // {pictures: 100 × (28 × 28), labels: (100)}
  let latest = 0;
  onmessage = ({ data }) => {
    if (data.weights) known[data.name] = net.unpack(data.weights);
    if (data.hundred) hundred = data.hundred;
    if (!data.question) return;
    const { number, name, picture, lesion } = data.question;
    latest = number;
    const pass = (image) => net.forward(known[name], name.startsWith("resnet"), image, lesion);
    const began = performance.now();
    const { logits, maps } = pass(picture);
    postMessage({ number, one: { logits, maps, milliseconds: performance.now() - began } });
    const answers = [];
    const some = () => {
      if (latest !== number) return;
      const until = performance.now() + 60;
      while (answers.length < 100 && performance.now() < until)
        answers.push(net.largest(pass(hundred.pictures[answers.length]).logits));
      postMessage({ number, answers });
      if (answers.length < 100) setTimeout(some);
    };
    setTimeout(some);
  };
}

/* What the data's scripts (labs/images.js, labs/resnet-20.js, labs/plain-20.js) call. */
const resnetbookLab = { networks, content: {}, load: (name, content) => (resnetbookLab.content[name] = content) };
globalThis.resnetbookLab = resnetbookLab;

/* A script file, once; its content. */
function loaded(folder, name) {
  if (resnetbookLab.content[name]) return Promise.resolve(resnetbookLab.content[name]);
  return new Promise((resolve, reject) => {
    const tag = document.createElement("script");
    tag.src = `${folder}${name}.js`;
    tag.onload = () => resolve(resnetbookLab.content[name]);
    tag.onerror = () => reject(new Error(`${name} could not be loaded`));
    document.head.append(tag);
  });
}

/* Draw a map in grey, darkest to brightest, into a canvas of its own size. */
function paint(canvas, values, side, least = Math.min(...values), most = Math.max(...values)) {
  canvas.width = canvas.height = side;
  const pixels = new ImageData(side, side);
  values.forEach((value, i) => {
    const grey = most > least ? (255 * (value - least)) / (most - least) : 0;
    pixels.data.set([grey, grey, grey, 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

const LAYERS = { stem: ["stem", 14, 16], layer1: ["stage 1", 14, 16], layer2: ["stage 2", 7, 32], layer3: ["stage 3", 4, 64] };
const place = (block) => block.replace(/layer(\d)\.(\d)/, (_, stage, i) => `${stage}.${+i + 1}`); // as in chapter 7
const NAMES = { "resnet-20": "ResNet-20", "plain-20": "the plain network" };
const SWAPS = [["layer1.0", "layer1.1"], ["layer1.1", "layer1.2"], ["layer1.0", "layer1.2"], ["layer2.1", "layer2.2"], ["layer3.1", "layer3.2"]];

function breakLab(root) {
  const folder = root.dataset.folder;
  const net = networks();
  const source = `(${breakWorker})(${networks})`;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let images, bytes, labels;
  let name = "resnet-20";
  let picked = 0; // which of the hundred; null: the reader's own picture
  let picture = null; // Float32Array (784), normalized
  let lesion, number = 0, layer = "layer1";
  const rows = [];
  const parts = {};

  const whole = () => ({ removed: [], swapped: null, silenced: {} });
  const normalized = (grey) => Float32Array.from(grey, (value) => (value / 255 - images.mean) / images.std);
  const greyOf = (i) => bytes.subarray(784 * i, 784 * (i + 1));

  function inWords() {
    const words = [];
    if (lesion.removed.length) words.push(`without ${[...lesion.removed].sort().map(place).join(", ")}`);
    if (lesion.swapped) words.push(`${lesion.swapped.map(place).join(" ↔ ")} swapped`);
    for (const [key, channels] of Object.entries(lesion.silenced))
      if (channels.length) words.push(`${LAYERS[key][0]}: channel ${channels.join(", ")} silent`);
    return words.join("; ") || "whole";
  }

  async function ready(which) {
    parts.status.textContent = "Loading …";
    try {
      images = await loaded(folder, "images");
      const weights = await loaded(folder, which);
      if (!bytes) {
        bytes = net.bytes(images.base64);
        labels = images.index.map((_, i) => Math.floor(i / images.each));
        const pictures = labels.map((_, i) => normalized(greyOf(i)));
        worker.postMessage({ hundred: { pictures, labels } });
      }
      worker.postMessage({ name: which, weights: { tensors: weights.tensors, base64: weights.base64 } });
      return true;
    } catch (error) {
      parts.status.textContent = `${error.message}. Are you offline? Try again.`;
      return false;
    }
  }

  function ask() {
    number += 1;
    parts.state.textContent = `${NAMES[name]}, ${inWords()}`;
    parts.hundred.textContent = "counting …";
    delete root.dataset.right;
    worker.postMessage({ question: { number, name, picture, lesion } });
  }

  worker.onmessage = ({ data }) => {
    if (data.number !== number) return;
    if (data.one) showOne(data.one);
    if (data.answers) showHundred(data.answers);
  };

  function showOne({ logits, maps, milliseconds }) {
    const probabilities = net.softmax(logits);
    const answer = net.largest(probabilities);
    root.dataset.logits = JSON.stringify(Array.from(logits));
    probabilities.forEach((p, k) => {
      parts.bars[k].style.width = `${100 * p}%`;
      parts.shares[k].textContent = p.toFixed(3);
      parts.bars[k].closest("tr").classList.toggle("answer", k === answer);
      parts.bars[k].closest("tr").classList.toggle("truth", picked !== null && k === labels[picked]);
    });
    const truth = picked === null ? "your picture" : images.classes[labels[picked]];
    const right = picked === null ? "" : labels[picked] === answer ? ": right" : ": wrong";
    parts.answer.textContent =
      `${truth} → ${images.classes[answer]} (${(100 * probabilities[answer]).toFixed(0)} %)${right}. ` +
      `One pass took ${milliseconds.toFixed(0)} ms.`;
    parts.maps = maps;
    showMaps();
  }

  function showMaps() {
    if (!parts.maps) return;
    const [words, side, channels] = LAYERS[layer];
    const values = parts.maps[layer];
    const most = values.reduce((a, b) => Math.max(a, b), 1e-9);
    const silent = lesion.silenced[layer] ?? [];
    if (parts.grid.dataset.layer !== layer) {
      parts.grid.dataset.layer = layer;
      parts.grid.replaceChildren(
        ...Array.from({ length: channels }, (_, k) =>
          make("button", { type: "button", class: "map", "aria-pressed": "false", "aria-label": `silence channel ${k} of ${words}`,
            onclick: () => {
              const now = lesion.silenced[layer] ?? [];
              lesion.silenced[layer] = now.includes(k) ? now.filter((c) => c !== k) : [...now, k].sort((a, b) => a - b);
              ask();
            } }, make("canvas"), make("span", {}, `${k}`))));
    }
    [...parts.grid.children].forEach((button, k) => {
      paint(button.firstChild, values.subarray(k * side * side, (k + 1) * side * side), side, 0, most);
      button.setAttribute("aria-pressed", silent.includes(k));
    });
  }

  function showHundred(answers) {
    const right = answers.filter((answer, i) => answer === labels[i]).length;
    answers.forEach((answer, i) => {
      const button = parts.thumbs[i];
      button.classList.toggle("wrong", answer !== labels[i]);
      button.setAttribute("aria-label", `${images.classes[labels[i]]} ${(i % images.each) + 1}, taken for ${images.classes[answer]}`);
    });
    parts.meter.style.width = `${right}%`;
    if (answers.length < 100) return;
    root.dataset.right = right;
    parts.hundred.textContent = `${right} of the hundred right`;
    const key = `${name}: ${inWords()}`;
    if (rows.some((row) => row.key === key)) return;
    rows.push({ key });
    const one = !Object.values(lesion.silenced).some((c) => c.length) && lesion.removed.length + !!lesion.swapped <= 1;
    const recorded = one && resnetbookLab.content[name].lesions[lesion.removed[0] ?? lesion.swapped?.join(" ↔ ") ?? "whole"];
    parts.rows.prepend(
      make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, inWords()), make("td", {}, (right / 100).toFixed(2)),
        make("td", {}, typeof recorded === "number" ? recorded.toFixed(3) : "–")));
  }

  function showControls() {
    for (const [block, button] of Object.entries(parts.blocks)) {
      const fixed = name === "plain-20" && net.changesShape(block);
      button.disabled = fixed;
      button.title = fixed ? "changes the shape, and a plain network has no shortcut in its place" : "";
      button.setAttribute("aria-pressed", lesion.removed.includes(block));
    }
    parts.swap.value = lesion.swapped ? lesion.swapped.join() : "";
    for (const radio of parts.choice.querySelectorAll("input")) radio.checked = radio.value === name;
  }

  function heal() {
    lesion = whole();
    showControls();
    ask();
  }

  async function choose(which) {
    if (!(await ready(which))) return showControls();
    name = which;
    parts.status.textContent = "";
    if (which === "plain-20") lesion.removed = lesion.removed.filter((block) => !net.changesShape(block));
    showControls();
    ask();
  }

  function pick(i) {
    parts.thumbs.forEach((button, k) => {
      button.tabIndex = k === i ? 0 : -1;
      button.setAttribute("aria-pressed", k === i);
    });
    picked = i;
    picture = normalized(greyOf(i));
    paint(parts.pad, greyOf(i), 28, 0, 255);
    ask();
  }

  /* A picture of the reader's: grey values 0 to 255, (28, 28), bright on black as in the training. */
  function own(grey) {
    parts.thumbs.forEach((button) => button.setAttribute("aria-pressed", "false"));
    picked = null;
    picture = normalized(grey);
    ask();
  }

  function fromPad() {
    const { data } = parts.pad.getContext("2d").getImageData(0, 0, 28, 28);
    own(Array.from({ length: 784 }, (_, i) => data[4 * i]));
  }

  async function upload(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      parts.answer.textContent = "The browser cannot read this file as a picture.";
      return;
    }
    const context = parts.pad.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, 28, 28);
    const scale = 28 / Math.max(bitmap.width, bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (28 - w) / 2, (28 - h) / 2, w, h);
    const { data } = context.getImageData(0, 0, 28, 28);
    const grey = Array.from({ length: 784 }, (_, i) => 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]);
    const edge = grey.filter((_, i) => i < 28 || i >= 756 || i % 28 === 0 || i % 28 === 27);
    const bright = edge.reduce((a, b) => a + b) / edge.length > 127;
    const shown = bright ? grey.map((value) => 255 - value) : grey; // the training's ground is black
    paint(parts.pad, shown, 28, 0, 255);
    own(shown);
  }

  function drawing() {
    let last = null;
    const at = (event) => {
      const box = parts.pad.getBoundingClientRect();
      return [((event.clientX - box.left) * 28) / box.width, ((event.clientY - box.top) * 28) / box.height];
    };
    const stroke = (event) => {
      if (!last) return;
      const context = parts.pad.getContext("2d");
      const now = at(event);
      Object.assign(context, { strokeStyle: "#ddd", lineWidth: 3, lineCap: "round" });
      context.beginPath();
      context.moveTo(...last);
      context.lineTo(...now);
      context.stroke();
      last = now;
      fromPad();
    };
    parts.pad.addEventListener("pointerdown", (event) => {
      parts.pad.setPointerCapture(event.pointerId);
      last = at(event);
      stroke(event);
    });
    parts.pad.addEventListener("pointermove", stroke);
    for (const end of ["pointerup", "pointercancel"]) parts.pad.addEventListener(end, () => (last = null));
  }

  function arrows(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10 }[event.key];
    const next = step && parts.thumbs.indexOf(document.activeElement) + step;
    if (!step || !(next in parts.thumbs)) return;
    event.preventDefault();
    parts.thumbs[next].focus();
    pick(next);
  }

  function build() {
    parts.choice = make("fieldset", {}, make("legend", {}, "Network"),
      ...Object.keys(NAMES).map((key) => make("label", {},
        make("input", { type: "radio", name: "network", value: key, onchange: () => choose(key) }), ` ${key}`)));
    parts.blocks = Object.fromEntries(net.BLOCKS.map((block) => [block,
      make("button", { type: "button", class: "block", "aria-pressed": "false", "aria-label": `leave out block ${place(block)}`,
        onclick: () => {
          lesion.removed = lesion.removed.includes(block) ? lesion.removed.filter((b) => b !== block) : [...lesion.removed, block];
          showControls();
          ask();
        } }, place(block))]));
    parts.swap = make("select", { onchange: () => { lesion.swapped = parts.swap.value ? parts.swap.value.split(",") : null; ask(); } },
      make("option", { value: "" }, "none"),
      ...SWAPS.map((pair) => make("option", { value: pair.join() }, pair.map(place).join(" ↔ "))));
    parts.thumbs = labels.map((label, i) => {
      const canvas = make("canvas");
      paint(canvas, greyOf(i), 28, 0, 255);
      return make("button", { type: "button", class: "thumb", tabindex: -1, "aria-label": `${images.classes[label]} ${(i % 10) + 1}`, onclick: () => pick(i) }, canvas);
    });
    parts.pad = make("canvas", { class: "pad", width: 28, height: 28, role: "img", "aria-label": "the picture; draw on it with a finger or a mouse" });
    const clear = () => { paint(parts.pad, new Array(784).fill(0), 28, 0, 255); fromPad(); };
    const file = make("input", { type: "file", accept: "image/*", onchange: () => file.files[0] && upload(file.files[0]) });
    parts.bars = images.classes.map(() => make("span", { class: "bar" }));
    parts.shares = images.classes.map(() => make("td", { class: "share" }));
    parts.answer = make("p", { "aria-live": "polite", class: "answer-line" });
    parts.state = make("strong");
    parts.hundred = make("span", { "aria-live": "polite" });
    parts.meter = make("span", { class: "bar" });
    parts.grid = make("div", { class: "maps" });
    parts.rows = make("tbody");
    const layers = make("select", { onchange: () => { layer = layers.value; showMaps(); } },
      ...Object.entries(LAYERS).map(([key, [words, side, channels]]) => make("option", { value: key, selected: key === layer }, `${words}: ${channels} maps, ${side}×${side}`)));
    const column = (stage) => make("div", { class: "stage" }, make("span", {}, `stage ${stage}`), ...net.BLOCKS.filter((b) => b.startsWith(`layer${stage}`)).map((b) => parts.blocks[b]));
    root.replaceChildren(
      make("div", { class: "controls" }, parts.choice, parts.status),
      make("h3", {}, "Take it apart"),
      make("div", { class: "controls", role: "group", "aria-label": "Blocks; press one to leave it out" }, column(1), column(2), column(3)),
      make("div", { class: "controls" }, make("label", {}, "Swap ", parts.swap), make("button", { type: "button", onclick: heal }, "Make it whole")),
      make("p", { class: "verdict" }, parts.state, ": ", parts.hundred, make("span", { class: "meter", "aria-hidden": "true" }, parts.meter)),
      make("h3", {}, "One picture"),
      make("div", { class: "controls top" },
        make("div", { class: "own" }, parts.pad, make("button", { type: "button", onclick: clear }, "Clear and draw"), make("label", {}, "Upload a picture ", file)),
        make("table", { class: "odds" }, make("caption", {}, "Probabilities"), make("tbody", {}, ...images.classes.map((c, k) =>
          make("tr", {}, make("th", { scope: "row" }, c), make("td", { class: "track" }, parts.bars[k]), parts.shares[k]))))),
      parts.answer,
      make("h3", {}, "The hundred"),
      make("p", {}, "A row is a class. Red: the network is wrong. Arrow keys move."),
      make("div", { class: "thumbs", role: "group", "aria-label": "A hundred test images", onkeydown: arrows }, ...parts.thumbs),
      make("h3", {}, "Feature maps"),
      make("p", {}, make("label", {}, "Behind ", layers), ". Press a map to silence its channel."),
      parts.grid,
      make("h3", {}, "Your table"),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Your table" },
        make("table", { class: "log" }, make("thead", {}, make("tr", {}, ...["network", "lesion", "on the hundred", "chapter 7, 10,000 images, seed 0"].map((t) => make("th", { scope: "col" }, t)))), parts.rows)));
    if (still) root.classList.add("still");
    drawing();
  }

  parts.status = make("span", { "aria-live": "polite" });
  const start = make("button", { type: "button", class: "start", onclick: async () => {
    start.disabled = true;
    if (!(await ready(name))) return (start.disabled = false);
    parts.status.textContent = "";
    lesion = whole();
    build();
    showControls();
    pick(0);
    root.querySelector("input").focus();
  } }, "Load the network (0.6 MB)");
  root.replaceChildren(start, parts.status);
}

for (const root of document.querySelectorAll("[data-lab=break]")) breakLab(root);
