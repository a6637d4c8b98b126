// The specifications are compressed: the data of a large map take megabytes.
const packed = Uint8Array.from(atob(document.getElementById("charts").textContent), letter => letter.charCodeAt(0));
const specs = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => {
  const ink = dark.matches ? "#c3ccd7" : "#3d4856", line = dark.matches ? "#36404d" : "#dde2e8";
  return {
    background: "transparent",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif",
    view: {stroke: line},
    text: {color: ink, fontSize: 12},
    axis: {labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
           labelFontSize: 12, titleFontSize: 12.5, titleFontWeight: 500, labelSeparation: 4},
    legend: {symbolBaseFillColor: ink, symbolBaseStrokeColor: ink, layout: {top: {anchor: "start", direction: "vertical"}}, labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12.5, titleFontWeight: 500},
  };
};
window.dsimViews = [];
// Breaks a text into lines of so many characters; and the same of labels, as an expression of Vega.
const lines = (text, characters) => text.match(new RegExp(`.{1,${Math.max(12, Math.floor(characters))}}(\\s|$)`, "g")) ?? text;
const broken = (names, characters) => `(${JSON.stringify(Object.fromEntries(names.map(name => [name, lines(name, characters)])))})[datum.label]`;
// Breaks legends into rows, and names beside charts and titles under them into lines, that fit this width in pixels.
const fit = (part, width) => {
  for (const [key, inner] of Object.entries(part)) {
    if (inner === null || typeof inner !== "object" || Object.hasOwn(inner, "values")) continue;
    if (inner.legend?.columns && inner.scale?.domain) {
      const names = inner.scale.domain, widest = 26 + 6.4 * Math.max(...names.map(name => name.length));
      inner.legend.columns = Math.max(1, Math.min(names.length, Math.floor((width - 110) / widest)));
      if (widest > width - 110) inner.legend.labelExpr = broken(names, (width - 136) / 6.4);
    }
    if (key === "x" && typeof inner.title === "string") inner.title = lines(inner.title, (width - 110) / 6.8);
    if (key === "y" && Array.isArray(inner.sort) && width < 500)
      inner.axis = {...inner.axis, labelExpr: broken(inner.sort, width / 18)};
    fit(inner, width);
  }
};
// What charts share: names that are picked out (orchestrations, variants, runs), and the cell of maps that is marked.
const controls = document.querySelector(".controls"), figures = [...document.querySelectorAll("figure")];
let picked = [], marked = null;

// Prepares a specification: marks of names that are not picked fade, and the marked cell of a map gets a rim.
// Returns its names, with their colours, and the fields of its axes if it is a map.
const link = spec => {
  const names = new Map(), axes = [];
  const visit = part => {
    const {color, x2, opacity} = part.encoding ?? {};
    if (color?.type === "nominal" && color.scale?.domain) {
      color.scale.domain.forEach((name, i) => names.set(name, color.scale.range[i]));
      const test = `length(picked) && indexof(picked, datum[${JSON.stringify(color.field)}]) < 0`;
      part.encoding.opacity = {condition: {test, value: 0.12}, ...(opacity ?? {value: part.mark.opacity ?? 1})};
    }
    if (part.mark?.type === "rect" && part.encoding.x?.field === "x0" && part.mark.clip) {
      axes.push(...[part.encoding.x, part.encoding.y].map(axis => part.encoding.tooltip.find(one => one.title === axis.title).field));
      const {x, y, x2, y2} = part.encoding, {mark, encoding} = part;
      const rim = (stroke, strokeWidth) => ({
        data: {name: "rim", values: []}, mark: {type: "rect", fill: null, stroke, strokeWidth, aria: false, tooltip: null},
        encoding: {x, y, x2, y2},
      });
      part.layer = [{mark, encoding}, rim("white", 5), rim("#1b2430", 2)];
      delete part.mark;
      delete part.encoding;
    } else for (const inner of part.layer ?? []) visit(inner);
  };
  visit(spec);
  spec.params = [...(spec.params ?? []), {name: "picked", value: []}];
  return {names, axes};
};
const links = specs.map(link), colours = new Map(links.flatMap(one => [...one.names]));

// Shows what is picked and marked in every chart that has been drawn.
function share() {
  for (const [i, view] of dsimViews.entries()) {
    if (!view) continue;
    const {names, axes} = links[i], fits = marked && axes.length && axes.every(field => field in marked);
    view.signal("picked", picked.filter(name => names.has(name)));
    if (axes.length) {
      const find = node => node.datum && node.tooltip && axes.every(field => node.datum[field] === marked[field])
        ? node : (node.items ?? []).reduce((found, item) => found ?? find(item), null);
      const item = fits ? find(view.scenegraph().root) : null, note = figures[i].querySelector(".marked");
      view.data("rim", item ? [item.datum] : []);
      note.hidden = !item;
      if (item) note.textContent = "Marked: " + Object.entries(item.tooltip).slice(0, 3).map(([name, text]) => `${name} ${text}`).join(", ");
    }
    view.run();
  }
  for (const button of controls?.querySelectorAll(".pick") ?? [])
    button.setAttribute("aria-pressed", picked.includes(button.textContent));
}
const pick = name => {
  picked = picked.includes(name) ? picked.filter(other => other !== name) : [...picked, name];
  share();
};
// A click on a legend or a mark picks its name; one on a cell marks the cell; one beside all ends both.
function clicked(i, item) {
  const {names, axes} = links[i], datum = item?.datum ?? {};
  const name = [datum.value, datum.label, ...Object.values(datum)].find(value => names.has(value));
  if (axes.length && axes.every(field => field in datum)) {
    const again = marked && axes.every(field => marked[field] === datum[field]);
    marked = again ? null : Object.fromEntries(axes.map(field => [field, datum[field]]));
    share();
  } else if (name !== undefined) pick(name);
  else if (picked.length || marked) {
    picked = [];
    marked = null;
    share();
  }
}

// A slider for each axis of the grid that no chart has as its own: it chooses which of the charts are shown.
const sliders = new Map();
for (const figure of figures)
  for (const [name, value] of JSON.parse(figure.dataset.at ?? "[]"))
    sliders.set(name, [...new Set([...(sliders.get(name) ?? []), value])].sort((a, b) => a - b));
const shown = new Map([...sliders].map(([name, values]) => [name, values[0]]));
let side = false;
const choose = () => {
  for (const figure of figures)
    figure.hidden = !side && JSON.parse(figure.dataset.at ?? "[]").some(([name, value]) => shown.get(name) !== value);
  return draw();
};
if (controls) {
  for (const [name, values] of sliders) {
    const box = document.createElement("label"), range = document.createElement("input"), now = document.createElement("output");
    Object.assign(range, {type: "range", min: 0, max: values.length - 1, value: 0});
    const show = () => { now.textContent = values[range.value]; range.setAttribute("aria-valuetext", `${name} ${now.textContent}`); };
    range.addEventListener("input", () => { shown.set(name, values[range.value]); show(); choose(); });
    show();
    box.append(name, range, now);
    controls.append(box);
  }
  if (sliders.size) {
    const box = document.createElement("label"), all = document.createElement("input");
    all.type = "checkbox";
    all.addEventListener("change", () => { side = all.checked; choose(); });
    box.append(all, "all side by side");
    controls.append(box);
  }
  const often = [...colours.keys()].filter(name => links.filter(one => one.names.has(name)).length > 1);
  for (const name of often.length > 1 ? often : []) {
    const button = document.createElement("button");
    Object.assign(button, {className: "pick", type: "button", textContent: name, title: "Highlight in every chart"});
    button.style.setProperty("--own", colours.get(name));
    button.addEventListener("click", () => pick(name));
    controls.append(button);
  }
  controls.hidden = !controls.childElementCount;
}

// Legends take clicks, and their symbols do not fade with the marks.
const clickable = vega => {
  const visit = part => {
    for (const legend of part.legends ?? [])
      for (const name of ["symbols", "labels"]) {
        legend.encode = {...legend.encode, [name]: {...legend.encode?.[name], interactive: true, update: {...legend.encode?.[name]?.update, cursor: {value: "pointer"}}}};
      }
    for (const inner of part.marks ?? []) visit(inner);
  };
  visit(vega);
  return vega;
};
let drawn = new Set(), turn = Promise.resolve();
async function drawMissing() {
  for (const [i, spec] of specs.entries()) {
    const place = document.getElementById("chart-" + (i + 1));
    if (drawn.has(i) || figures[i].hidden) continue;
    drawn.add(i);
    fit(spec, place.clientWidth);
    const many = spec.usermeta.marks > 6000;
    const result = await vegaEmbed(place, spec, {
      actions: {export: true, source: false, compiled: false, editor: false}, patch: clickable,
      renderer: many ? "canvas" : "svg", config: theme(), tooltip: {theme: dark.matches ? "dark" : "light"},
    });
    window.dsimViews[i] = result.view;
    result.view.addEventListener("click", (_, item) => clicked(i, item));
    document.body.dataset.ready = drawn.size;
    await new Promise(done => setTimeout(done));  // clicks come first
  }
  if (picked.length || marked) share();
  document.body.dataset.drawn = drawn.size;
}
const draw = () => turn = turn.then(drawMissing);
dark.addEventListener("change", () => { drawn.clear(); draw(); });
choose();
