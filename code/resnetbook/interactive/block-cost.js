// What does a block cost? A basic block beside a bottleneck, in weights, parameters or multiply-adds.

// The convolutions of a block that keeps its shape: [kernel, channels in, channels out].
function basicLayers(channels) {
  return [[3, channels, channels], [3, channels, channels]];
}

function bottleneckLayers(channels, reduction) {
  const inner = channels / reduction;
  return [[1, channels, inner], [3, inner, inner], [1, inner, channels]];
}

// A k×k convolution has k·k·in·out weights, its batch norm two numbers for each channel that comes out, and
// each weight is used once at each of side·side positions.
function costs([kernel, cin, cout], side) {
  const weights = kernel * kernel * cin * cout;
  return { weights, parameters: weights + 2 * cout, macs: weights * side * side };
}

function sum(layers, key) {
  return layers.reduce((total, layer) => total + layer[key], 0);
}

// A bar for each block, both to one scale; a segment for each convolution.
function bars(blocks, key, width) {
  const most = Math.max(...blocks.map((block) => sum(block.costs, key)));
  let svg = "";
  blocks.forEach((block, i) => {
    const top = 70 * i;
    const total = sum(block.costs, key);
    svg += `<text x="0" y="${top + 14}">${block.name}: ${count(total)}</text>`;
    let left = 0;
    block.costs.forEach((cost, j) => {
      const long = (cost[key] / most) * width;
      svg += `<rect x="${left}" y="${top + 22}" width="${Math.max(long, 0.5)}" height="30" fill="var(--${block.color})" stroke="var(--ground)" stroke-width="${long > 6 ? 2 : 0}"/>`;
      const label = `${block.layers[j][0]}×${block.layers[j][0]}`;
      if (long > 34) svg += `<text class="on" x="${left + long / 2}" y="${top + 42}" text-anchor="middle">${label}</text>`;
      left += long;
    });
  });
  return `<svg viewBox="0 0 ${width} 126" width="${width}" height="126">${svg}</svg>`;
}

const KINDS = { weights: "weights", parameters: "parameters, norms included", macs: "multiply-adds" };

function draw({ basic, bottleneck, reduction, side, count: key }, width) {
  const blocks = [
    { name: `basic block, ${basic} channels`, color: "a", layers: basicLayers(basic) },
    { name: `bottleneck, ${bottleneck} channels`, color: "b", layers: bottleneckLayers(bottleneck, reduction) },
  ];
  for (const block of blocks) block.costs = block.layers.map((layer) => costs(layer, side));
  const totals = blocks.map((block) => ({
    weights: sum(block.costs, "weights"),
    parameters: sum(block.costs, "parameters"),
    macs: sum(block.costs, "macs"),
  }));
  const ratio = totals[0][key] / totals[1][key];
  const compared = basic === bottleneck ? "At equal width" : `With ${basic} channels against ${bottleneck}`;
  const rows = blocks.flatMap((block, i) => [
    ...block.layers.map(([k, cin, cout], j) => {
      const cost = block.costs[j];
      return [`${k}×${k}, ${cin} → ${cout}`, count(cost.weights), count(cost.parameters), count(cost.macs)];
    }),
    [block.name, count(totals[i].weights), count(totals[i].parameters), count(totals[i].macs)],
  ]);
  return {
    picture: bars(blocks, key, width),
    words:
      `${compared}, the basic block has ${ratio.toFixed(2)} times the ${KINDS[key]} of the bottleneck: ` +
      `${count(totals[0][key])} against ${count(totals[1][key])}, on a map of ${side}×${side}.`,
    table: { caption: "Each convolution, and the block", head: ["layer", "weights", "with norms", "MACs"], rows },
    numbers: { basic: totals[0], bottleneck: totals[1], ratio },
  };
}

start(draw);
