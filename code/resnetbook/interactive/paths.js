// Paths and gradients: how large signal and gradient become in a chain of blocks, and which paths carry them.
//
// A block puts out  s·x + b·F(x).  F is new, with random weights of mean 0, and multiplies the variance of its
// input by `gain`. Then F(x) and x are uncorrelated and their variances add up (chapter 3, section 5): a block
// multiplies the variance, and on the way back the mean square of the gradient, by  s² + b²·gain.

const JOINS = {
  none: [0, 1, "F(x)"],
  add: [1, 1, "x + F(x)"],
  half: [0.5, 0.5, "½ (x + F(x))"],
  gate: [0.9, 0.1, "0.9 x + 0.1 F(x)"],
};

// "n choose k", in floating point: exact while it is below 2^53
function choose(n, k) {
  let result = 1;
  for (let i = 1; i <= k; i++) result = Math.round((result * (n - k + i)) / i);
  return result;
}

// The share of the gradient's mean square that has come through exactly k functions F.
function shares(n, around, through) {
  const whole = around + through;
  return Array.from({ length: n + 1 }, (_, k) => choose(n, k) * (around / whole) ** (n - k) * (through / whole) ** k);
}

function power(number) {
  if (number >= 0.01 && number < 10000) return String(Number(number.toPrecision(3)));
  return number.toExponential(1).replace("e+", "·10^").replace("e", "·10^");
}

// Powers of ten over the number of the block.
function curves(n, rate, wide) {
  const tall = 190;
  const ends = n * Math.log10(rate);
  const low = Math.min(0, Math.floor(ends));
  const high = Math.max(low + 1, Math.ceil(Math.max(0, ends)));
  const x = (i) => 46 + (i / n) * (wide - 62);
  const y = (exponent) => 24 + tall * (1 - (exponent - low) / (high - low));
  const points = (value) => Array.from({ length: n + 1 }, (_, i) => `${x(i).toFixed(1)},${y(value(i)).toFixed(1)}`).join(" ");
  let svg = '<text x="0" y="12">size, powers of ten</text>';
  svg += `<path class="axis" fill="none" d="M${x(0)} ${y(high)}V${y(low)}H${x(n)}"/>`;
  for (const tick of new Set([low, 0, high])) svg += `<text class="pale" x="38" y="${y(tick) + 4}" text-anchor="end">${tick}</text>`;
  svg += `<polyline fill="none" stroke="var(--a)" stroke-width="2.5" points="${points((i) => i * Math.log10(rate))}"/>`;
  svg += `<polyline fill="none" stroke="var(--b)" stroke-width="2.5" stroke-dasharray="7 4" points="${points((i) => (n - i) * Math.log10(rate))}"/>`;
  svg += `<text class="pale" x="${x(0)}" y="${y(low) + 18}">0</text><text class="pale" x="${x(n)}" y="${y(low) + 18}" text-anchor="end">block ${n}</text>`;
  return svg + legend(0, 252, "a", "signal") + legend(100, 252, "b", "gradient", 'stroke-dasharray="7 4"');
}

function legend(x, y, color, name, dashes = "") {
  return `<path d="M${x} ${y}h28" stroke="var(--${color})" stroke-width="2.5" ${dashes}/><text x="${x + 34}" y="${y + 4}">${name}</text>`;
}

// Bars: how many paths have this length; line: how much of the gradient comes through them.
function lengths(counts, gradient, wide) {
  const tall = 190;
  const n = counts.length - 1;
  const most = Math.max(...counts, ...gradient);
  const step = (wide - 20) / (n + 1);
  const y = (value) => 24 + tall * (1 - value / most);
  let svg = '<text x="0" y="12">share, by length of the path</text>';
  counts.forEach((value, k) => {
    svg += `<rect x="${10 + k * step}" y="${y(value)}" width="${Math.max(step - 1, 1)}" height="${24 + tall - y(value)}" fill="var(--line)"/>`;
  });
  const points = gradient.map((value, k) => `${(10 + (k + 0.5) * step).toFixed(1)},${y(value).toFixed(1)}`);
  svg += `<polyline fill="none" stroke="var(--b)" stroke-width="2.5" points="${points.join(" ")}"/>`;
  svg += `<path class="axis" d="M10 ${24 + tall}H${wide - 10}"/>`;
  svg += `<text class="pale" x="10" y="${42 + tall}">0</text><text class="pale" x="${wide - 10}" y="${42 + tall}" text-anchor="end">through ${n}</text>`;
  return svg + legend(0, 252, "line", "paths") + legend(100, 252, "b", "gradient");
}

function draw({ blocks: n, gain, join }, width) {
  const [s, b, formula] = JOINS[join];
  const [around, through] = [s * s, b * b * gain];
  const rate = Math.sqrt(around + through);
  const end = rate ** n;
  const paths = join === "none" ? 1 : 2 ** n;
  const counts = Array.from({ length: n + 1 }, (_, k) => (join === "none" ? Number(k === n) : choose(n, k) / 2 ** n));
  const gradient = shares(n, around, through);
  const meanLength = (n * through) / (around + through);
  const side = width >= 520;
  const wide = side ? width / 2 - 8 : width;
  const tall = side ? 264 : 540;
  const move = side ? `translate(${wide + 16} 0)` : "translate(0 276)";
  const verdict = end > 1000 ? "It explodes." : end < 0.001 ? "It vanishes." : "It stays within reach.";
  return {
    picture: `<svg viewBox="0 0 ${width} ${tall}" width="${width}" height="${tall}">${curves(n, rate, wide)}<g transform="${move}">${lengths(counts, gradient, wide)}</g></svg>`,
    words:
      `${n} ${n === 1 ? "block" : "blocks"} of ${formula}: each makes signal and gradient ${power(rate)} times as large, all together ` +
      `${power(end)} times. ${verdict} There ${paths === 1 ? "is 1 path" : `are ${count(paths)} paths`}; on average ` +
      `the gradient has come through ${meanLength.toFixed(1)} functions F.`,
    table: {
      caption: "Size, where signal begins with 1 and gradient ends with 1",
      head: ["after block", "signal", "gradient"],
      rows: [...new Set([0, Math.floor(n / 2), n])].map((i) => [i, power(rate ** i), power(rate ** (n - i))]),
    },
    numbers: { rate, end, paths, gradient, meanLength },
  };
}

start(draw);
