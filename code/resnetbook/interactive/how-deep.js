// How deep? The recorded trainings of chapter 2, by depth, with and without shortcuts.
//
// SPEC.data: for each kind and depth the runs, each [seed, running training loss by epoch, loss on the fixed
// training images after the last epoch, test accuracy]; rounded by Python.

function mean(values) {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

// "0.151 ± 0.008 (5)": mean, standard deviation of a sample, number of seeds
function summary(values) {
  const middle = mean(values);
  const spread = Math.sqrt(values.reduce((a, b) => a + (b - middle) ** 2, 0) / (values.length - 1));
  return `${middle.toFixed(3)} ± ${spread.toFixed(3)} (${values.length})`;
}

function runsOf(kind, depth, seed) {
  return SPEC.data[kind][depth].filter((run) => seed === "all" || run[0] === seed);
}

function lastLoss(run) {
  return run[2];
}

// A plot's frame: where a value lies, and the axes with their ticks and names.
function frame(left, wide, xs, top, most, name, xName) {
  const tall = 190;
  const x = (i) => left + 34 + (i / (xs.length - 1)) * (wide - 50);
  const y = (value) => top + 24 + tall * (1 - value / most);
  let svg = `<text x="${left}" y="${top + 12}">${name}</text>`;
  svg += `<path class="axis" fill="none" d="M${x(0) - 8} ${y(most)}V${y(0)}H${x(xs.length - 1) + 8}"/>`;
  for (let value = 0; value <= most; value += 0.5)
    svg += `<text class="pale" x="${left + 22}" y="${y(value) + 4}" text-anchor="end">${value.toFixed(1)}</text>`;
  xs.forEach((text, i) => {
    svg += `<text class="pale" x="${x(i)}" y="${y(0) + 18}" text-anchor="middle">${text}</text>`;
  });
  svg += `<text class="pale" x="${x(xs.length - 1) + 8}" y="${y(0) + 36}" text-anchor="end">${xName}</text>`;
  return { x, y, svg };
}

const COLORS = { plain: "b", residual: "a" };
const DASHES = { plain: "", residual: 'stroke-dasharray="7 4"' };

function line(points, kind, thick, opacity = 1) {
  return `<polyline points="${points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ")}" fill="none" stroke="var(--${COLORS[kind]})" stroke-width="${thick}" opacity="${opacity}" ${DASHES[kind]}/>`;
}

// Left the loss after each epoch, right the last loss by depth; on a phone one above the other.
function plots({ depth, kind, seed }, width) {
  const side = width >= 520;
  const wide = side ? width / 2 - 8 : width;
  const other = kind === "plain" ? "residual" : "plain";
  const epochs = SPEC.data.plain[depth][0][1].map((_, i) => i + 1);
  const left = frame(0, wide, epochs, 0, SPEC.most, "training loss while it learns", "epochs");
  let svg = left.svg;
  for (const [which, thick, opacity] of [[other, 1.5, 0.55], [kind, 2.5, 1]])
    for (const run of runsOf(which, depth, seed))
      svg += line(run[1].map((value, i) => [left.x(i), left.y(value)]), which, thick, opacity);
  const right = frame(side ? wide + 16 : 0, wide, SPEC.depths, side ? 0 : 272, SPEC.mostLast, "loss after the last epoch", "layers");
  svg += right.svg;
  const chosen = SPEC.depths.indexOf(depth);
  svg += `<rect x="${right.x(chosen) - 13}" y="${right.y(SPEC.mostLast)}" width="26" height="190" fill="var(--lit)"/>`;
  for (const which of [other, kind]) {
    const means = SPEC.depths.map((d) => mean(runsOf(which, d, seed).map(lastLoss)));
    svg += line(means.map((value, i) => [right.x(i), right.y(value)]), which, which === kind ? 2.5 : 1.5);
    SPEC.depths.forEach((d, i) => {
      for (const run of runsOf(which, d, seed))
        svg += `<circle cx="${right.x(i)}" cy="${right.y(lastLoss(run))}" r="${d === depth && which === kind ? 4.5 : 2.5}" fill="var(--${COLORS[which]})"/>`;
    });
  }
  const foot = side ? 276 : 548;
  ["plain", "residual"].forEach((which, i) => {
    svg += line([[20 + 110 * i, foot], [48 + 110 * i, foot]], which, 2.5);
    svg += `<text x="${54 + 110 * i}" y="${foot + 4}">${which}</text>`;
  });
  return `<svg viewBox="0 0 ${width} ${foot + 12}" width="${width}" height="${foot + 12}">${svg}</svg>`;
}

function draw(settings, width) {
  const { depth, kind, seed } = settings;
  const numbers = {};
  for (const which of ["plain", "residual"]) {
    const found = runsOf(which, depth, seed);
    numbers[which] = {
      loss: mean(found.map(lastLoss)),
      accuracy: mean(found.map((run) => run[3])),
      curves: found.map((run) => run[1]),
    };
  }
  const texts = (values) => (values.length > 1 ? summary(values) : values[0].toFixed(3));
  const rows = SPEC.depths.map((d) => [
    d,
    ...["plain", "residual"].map((which) => texts(runsOf(which, d, seed).map(lastLoss))),
    ...["plain", "residual"].map((which) => texts(runsOf(which, d, seed).map((run) => run[3]))),
  ]);
  const own = numbers[kind];
  const other = kind === "plain" ? "residual" : "plain";
  const shallowest = SPEC.depths[0];
  const first = mean(runsOf(kind, shallowest, seed).map(lastLoss));
  const against = own.loss > first ? "higher" : "lower";
  const from = depth === shallowest ? "" : ` That is ${against} than with ${shallowest} layers (${first.toFixed(3)}).`;
  return {
    picture: plots(settings, width),
    words:
      `${depth} layers, ${kind}, ${seed === "all" ? "mean of all seeds" : `seed ${seed}`}: training loss ` +
      `${own.loss.toFixed(3)}, test accuracy ${own.accuracy.toFixed(3)}.${from} ` +
      `Its ${other} twin: ${numbers[other].loss.toFixed(3)} and ${numbers[other].accuracy.toFixed(3)}.`,
    table: {
      caption: "After the last epoch: training loss, test accuracy; mean ± std (seeds)",
      head: ["layers", "loss, plain", "residual", "accuracy, plain", "residual"],
      rows,
      lit: SPEC.depths.indexOf(depth),
    },
    numbers,
  };
}

start(draw);
