// What all instruments share: the controls, the table, the words, and how a picture is drawn anew.
//
// Python writes before this file:  const NAME, SPEC;  and after it the instrument's own file, which ends
// with  start(draw).  draw(settings, width) returns what is shown:
//   picture  SVG as text, as wide as `width` in CSS pixels
//   words    the result in one or two sentences, which a screen reader says after each change
//   table    {caption, head, rows, lit}: lit is the number of the row that lights up, or none
//   numbers  the results as they are, which the book's tests compare with the package's own
//   limits   optional: how many values of a slider make sense now, by the slider's key

// 1179648 -> 1,179,648: as the book's tables write it, in every language of a browser
function count(number) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, ",");
}

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A slider over a list of values, or a list to choose from; both are labelled, and a key moves both.
function control(spec, settings, changed) {
  const shown = element("output", { "aria-hidden": "true" });
  const input =
    spec.kind === "range"
      ? element("input", { type: "range", min: 0, max: spec.values.length - 1, step: 1 })
      : element("select", {}, ...spec.texts.map((text, i) => element("option", { value: i }, text)));
  const label = element("label", {}, element("span", {}, spec.label), input);
  if (spec.kind === "range") label.append(shown);
  input.name = spec.key;
  input.addEventListener("input", () => {
    settings[spec.key] = spec.values[Number(input.value)];
    changed();
  });
  // Puts the control where the settings are, which a button may have changed.
  function follow(limit) {
    if (limit !== undefined) input.max = Math.min(limit, spec.values.length) - 1;
    const place = spec.values.indexOf(settings[spec.key]);
    input.value = place;
    shown.textContent = spec.texts[place];
    if (spec.kind === "range") input.setAttribute("aria-valuetext", spec.texts[place]);
  }
  return { label, follow, key: spec.key, values: spec.values };
}

function fillTable(table, { caption, head, rows, lit }) {
  const row = (cells, tag, i) => {
    const line = element("tr", i !== undefined && i === lit ? { class: "lit", "aria-current": "true" } : {});
    cells.forEach((cell, j) => {
      const heading = tag === "th" || j === 0;
      const scope = tag === "th" ? "col" : "row";
      line.append(element(heading ? "th" : "td", heading ? { scope } : {}, String(cell)));
    });
    return line;
  };
  table.replaceChildren(
    element("caption", {}, caption),
    element("thead", {}, row(head, "th")),
    element("tbody", {}, ...rows.map((cells, i) => row(cells, "td", i))),
  );
}

function build(root, draw) {
  const settings = { ...SPEC.settings };
  const controls = SPEC.controls.map((spec) => control(spec, settings, update));
  const presets = SPEC.presets.map(({ text, settings: wanted }) => {
    const button = element("button", { type: "button" }, text);
    button.addEventListener("click", () => {
      Object.assign(settings, wanted);
      update();
    });
    return { button, wanted };
  });
  const title = element("p", { class: "title" }, SPEC.title);
  const picture = element("div", { class: "picture", "aria-hidden": "true" });
  const words = element("p", { class: "words", "aria-live": "polite" });
  const table = element("table", {});
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", SPEC.title);
  root.replaceChildren(
    title,
    ...(presets.length ? [element("div", { class: "presets" }, ...presets.map((p) => p.button))] : []),
    element("div", { class: "controls" }, ...controls.map((c) => c.label)),
    picture,
    words,
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "table" }, table),
  );
  // What is drawn with data-set='{"row": 3}' can be pressed, and sets that.
  picture.addEventListener("click", (event) => {
    const pressed = event.target.closest("[data-set]");
    if (!pressed) return;
    Object.assign(settings, JSON.parse(pressed.dataset.set));
    update();
  });
  let width = 0; // until it is shown
  function update() {
    let view = draw(settings, width || 600);
    const limits = view.limits || {};
    const outside = controls.filter((c) => c.values.indexOf(settings[c.key]) >= (limits[c.key] ?? Infinity));
    for (const c of outside) settings[c.key] = c.values[limits[c.key] - 1];
    if (outside.length) view = draw(settings, width || 600);
    controls.forEach((c) => c.follow(limits[c.key]));
    for (const { button, wanted } of presets) {
      const now = Object.entries(wanted).every(([key, value]) => settings[key] === value);
      button.setAttribute("aria-pressed", String(now));
    }
    picture.innerHTML = view.picture;
    if (words.textContent !== view.words) words.textContent = view.words;
    fillTable(table, view.table);
    root.numbers = view.numbers;
  }
  // Told rather than asked, since asking makes a browser lay the whole page out at once. It is told when it
  // is first shown, and of another width: a phone that is turned, a side bar that opens.
  new ResizeObserver(([{ contentRect }]) => {
    const room = Math.max(240, Math.min(Math.round(contentRect.width), 720));
    if (Math.abs(room - width) <= 1) return;
    width = room;
    update();
  }).observe(title);
}

// Fill the instrument's own elements that are not filled yet: a cell may be run again, a page may show two.
function start(draw, patience = 60) {
  const empty = document.querySelectorAll(`.resnetbook-instrument[data-instrument="${NAME}"]:not([data-ready])`);
  // Some notebooks run a script a moment before they show the element.
  if (!empty.length && patience) requestAnimationFrame(() => start(draw, patience - 1));
  for (const root of empty) {
    root.dataset.ready = "";
    build(root, draw);
  }
}
