// The shape walker: the map after each stage of a ResNet, and what each stage costs.
//
// SPEC.family: for each depth [kind of block, blocks in each stage], as resnetbook.models builds them.

function conv(kernel, cin, cout, side) {
  const weights = kernel * kernel * cin * cout;
  return { parameters: weights + 2 * cout, macs: weights * side * side };
}

// A block's convolutions at stride 1 or 2. In a bottleneck the 3×3 has the stride, as in torchvision.
function block(kind, cin, cout, stride, side) {
  const small = Math.ceil(side / stride);
  const inner = cout / 4;
  const path =
    kind === "basic"
      ? [conv(3, cin, cout, small), conv(3, cout, cout, small)]
      : [conv(1, cin, inner, side), conv(3, inner, inner, small), conv(1, inner, cout, small)];
  const changes = stride !== 1 || cin !== cout;
  return changes ? [...path, conv(1, cin, cout, small)] : path;
}

function total(parts, key) {
  return parts.reduce((sum, part) => sum + part[key], 0);
}

function walk({ depth, stem, side: image, task }) {
  const [colours, classes] = task === "photo" ? [3, 1000] : [1, 10];
  const [kind, blocks] = SPEC.family[depth];
  let side = stem === "imagenet" ? Math.ceil(image / 2) : image;
  let channels = 64;
  const first = conv(stem === "imagenet" ? 7 : 3, colours, channels, side);
  const stages = [{ name: "conv1", channels, side, ...first }];
  if (stem === "imagenet") {
    side = Math.ceil(side / 2);
    stages.push({ name: "max-pool", channels, side, parameters: 0, macs: 0 });
  }
  blocks.forEach((number, i) => {
    const cout = 64 * 2 ** i * (kind === "basic" ? 1 : 4);
    const parts = [];
    for (let j = 0; j < number; j++) {
      const stride = i > 0 && j === 0 ? 2 : 1;
      parts.push(...block(kind, channels, cout, stride, side));
      side = Math.ceil(side / stride);
      channels = cout;
    }
    stages.push({ name: `conv${i + 2}_x, ${number} blocks`, channels, side, parameters: total(parts, "parameters"), macs: total(parts, "macs") });
  });
  stages.push({ name: "mean, linear", channels: classes, side: 1, parameters: (channels + 1) * classes, macs: channels * classes });
  return stages;
}

// For each stage its map, drawn to one scale, and two bars: its part of the parameters and of the MACs.
function rows(stages, width) {
  const tall = 58;
  const whole = { parameters: total(stages, "parameters"), macs: total(stages, "macs") };
  const long = width - 150;
  let svg = "";
  stages.forEach((stage, i) => {
    const top = i * tall;
    const square = Math.max((46 * stage.side) / stages[0].side, 1.5);
    svg += `<rect x="${25 - square / 2}" y="${top + 27 - square / 2}" width="${square}" height="${square}" fill="var(--c)"/>`;
    svg += `<text x="58" y="${top + 13}">${stage.name}: ${stage.channels}×${stage.side}×${stage.side}</text>`;
    [["parameters", "a"], ["macs", "b"]].forEach(([key, color], j) => {
      const share = stage[key] / whole[key];
      const y = top + 19 + 16 * j;
      svg += `<rect x="58" y="${y}" width="${Math.max(share * long, 0.5)}" height="13" fill="var(--${color})"/>`;
      svg += `<text class="pale" x="${64 + share * long}" y="${y + 11}">${(100 * share).toFixed(1)} %</text>`;
    });
  });
  const foot = stages.length * tall + 14;
  svg += `<text x="58" y="${foot}"><tspan style="fill:var(--a)">■</tspan> parameters  <tspan style="fill:var(--b)">■</tspan> MACs</text>`;
  return `<svg viewBox="0 0 ${width} ${foot + 6}" width="${width}" height="${foot + 6}">${svg}</svg>`;
}

function draw(settings, width) {
  const stages = walk(settings);
  const last = stages[stages.length - 2];
  const parameters = total(stages, "parameters");
  const macs = total(stages, "macs");
  const lines = stages.map((stage) => [stage.name, `${stage.channels}×${stage.side}×${stage.side}`, count(stage.parameters), count(stage.macs)]);
  return {
    picture: rows(stages, width),
    words:
      `ResNet-${settings.depth} on an image of ${settings.side}×${settings.side}: the last map is ${last.channels}×${last.side}×${last.side}. ` +
      `${count(parameters)} parameters, ${count(macs)} MACs.`,
    table: {
      caption: "After each stage",
      head: ["stage", "map", "parameters", "MACs"],
      rows: [...lines, ["all", "", count(parameters), count(macs)]],
    },
    numbers: { stages: stages.map((s) => [s.channels, s.side, s.parameters, s.macs]), parameters, macs },
  };
}

start(draw);
