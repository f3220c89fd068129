// The window: a kernel moves over a small drawn picture; size, output and receptive field follow.

// -1 in the first column (or row), 1 in the last: an edge. Or all equal: a mean.
function kernelOf(kind, k) {
  const cell = (i) => (i === 0 ? -1 : i === k - 1 ? 1 : 0);
  return Array.from({ length: k }, (_, r) =>
    Array.from({ length: k }, (_, c) => (kind === "mean" ? 1 / (k * k) : cell(kind === "vertical" ? c : r))),
  );
}

function pad(image, p) {
  const zeros = Array(image.length + 2 * p).fill(0);
  const side = Array(p).fill(0);
  const middle = image.map((row) => [...side, ...row, ...side]);
  return [...Array(p).fill(zeros), ...middle, ...Array(p).fill(zeros)];
}

// Lay the kernel on the image, multiply, add up: one number of the output.
function output(padded, kernel, top, left) {
  let total = 0;
  kernel.forEach((row, r) => row.forEach((weight, c) => (total += weight * padded[top + r][left + c])));
  return total;
}

// n_out = floor((n + 2p - k) / s) + 1
function sizeOf(n, k, s, p) {
  return Math.floor((n + 2 * p - k) / s) + 1;
}

// r <- r + (k - 1) j,  j <- j s,  for each layer
function fieldOf(layers, k, s) {
  let [field, jump] = [1, 1];
  for (let i = 0; i < layers; i++) {
    field += (k - 1) * jump;
    jump *= s;
  }
  return { field, jump };
}

function square(x, y, side, fill, more = "") {
  return `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${side.toFixed(1)}" height="${side.toFixed(1)}" fill="${fill}" ${more}/>`;
}

function text(number) {
  return Number.isInteger(number) ? String(number) : number.toFixed(2);
}

function drawMaps(padded, map, kernel, { stride, padding, row, column }, width) {
  const half = width / 2 - 8;
  const small = half / padded.length;
  const n = padded.length - 2 * padding;
  let svg = `<text x="0" y="13">picture, ${n}×${n}</text><text x="${half + 16}" y="13">output, ${map.length}×${map.length}</text>`;
  padded.forEach((line, r) =>
    line.forEach((value, c) => {
      const border = Math.min(r, c) < padding || Math.max(r, c) >= n + padding;
      const grey = Math.round(30 + 25 * value);
      svg += square(c * small, 22 + r * small, small, border ? "var(--lit)" : `rgb(${grey},${grey},${grey})`, 'stroke="var(--line)" stroke-width="0.5"');
    }),
  );
  const long = small * kernel.length;
  svg += `<rect x="${column * stride * small}" y="${22 + row * stride * small}" width="${long}" height="${long}" fill="none" stroke="var(--b)" stroke-width="3"/>`;
  const large = Math.max(...map.flat().map(Math.abs), 1e-9);
  const wide = half / map.length;
  map.forEach((line, r) =>
    line.forEach((value, c) => {
      const [x, y] = [half + 16 + c * wide, 22 + r * wide];
      const chosen = r === row && c === column;
      const set = `data-set='{"row":${r},"column":${c}}' style="cursor:pointer"`;
      svg += square(x, y, wide, "var(--card)", set + ' stroke="var(--line)" stroke-width="0.5"');
      const color = value < 0 ? "b" : "a";
      svg += square(x + 1, y + 1, wide - 2, `var(--${color})`, `${set} fill-opacity="${(Math.abs(value) / large).toFixed(2)}"`);
      if (chosen) svg += square(x, y, wide, "none", 'stroke="var(--b)" stroke-width="3"');
    }),
  );
  const tall = half + 44;
  svg += `<text class="pale" x="${width}" y="${tall - 6}" text-anchor="end">blue above 0, orange below</text>`;
  return `<svg viewBox="0 0 ${width} ${tall}" width="${width}" height="${tall}">${svg}</svg>`;
}

function draw(settings, width) {
  const { kernel: k, kind, stride: s, padding: p, layers } = settings;
  const n = SPEC.image.length;
  const kernel = kernelOf(kind, k);
  const padded = pad(SPEC.image, p);
  const size = sizeOf(n, k, s, p);
  const map = Array.from({ length: size }, (_, r) =>
    Array.from({ length: size }, (_, c) => output(padded, kernel, r * s, c * s)),
  );
  const row = Math.min(settings.row, size - 1);
  const column = Math.min(settings.column, size - 1);
  const fields = Array.from({ length: layers }, (_, i) => fieldOf(i + 1, k, s));
  const { field, jump } = fields[layers - 1];
  const under = kernel.map((line, r) => line.map((_, c) => padded[row * s + r][column * s + c]).join(" "));
  return {
    picture: drawMaps(padded, map, kernel, { stride: s, padding: p, row, column }, width),
    words:
      `Size: (${n} + 2·${p} − ${k}) / ${s}, rounded down, + 1 = ${size}. In row ${row} and column ${column} of the ` +
      `output stands ${text(map[row][column])}. A number behind ${layers === 1 ? "1 such layer" : `${layers} such layers`} ` +
      `reaches over ${field}×${field} pixels, and its neighbour lies ${jump === 1 ? "1 pixel" : `${jump} pixels`} further.`,
    table: {
      caption: "The window, row by row",
      head: ["row", "pixels", "weights"],
      rows: kernel.map((line, r) => [r, under[r], line.map(text).join(" ")]),
    },
    numbers: { size, map, field, jump, value: map[row][column] },
    limits: { row: size, column: size },
  };
}

start(draw);
