// Every line of text that is seen inside `root`: is it cut, does it overlap another, is its contrast at
// least 4.5 (WCAG 2, AA)? Texts of charts are also looked at by their figures, see test_geometry.
root => {
  const faults = new Set(), lines = [];
  const parse = colour => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return colour.startsWith("color(srgb") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const light = colour => colour.slice(0, 3)
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const chain = element => element ? [element, ...chain(element.parentElement)] : [];
  const ground = new Map();
  const groundOf = element => {
    if (!element) return [255, 255, 255];
    if (!ground.has(element)) {
      const own = parse(getComputedStyle(element).backgroundColor);
      ground.set(element, own[3] === 1 ? own : over(own, groundOf(element.parentElement)));
    }
    return ground.get(element);
  };
  const walker = document.createTreeWalker(document.querySelector(root), NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const text = node.textContent.trim(), element = node.parentElement;
    if (!text || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (element.closest("script, style, title, .headerlink, .md-clipboard, .vega-embed summary")) continue;
    const style = getComputedStyle(element), chart = element.closest("svg");
    const range = document.createRange();
    range.selectNodeContents(node);
    const all = chain(element);
    for (const box of range.getClientRects()) {
      if (box.width < 2 || box.height < 2) continue;
      let left = box.left, right = box.right, scrolls = false;
      for (const outer of all) {
        const flow = getComputedStyle(outer).overflowX;
        if (flow === "visible" || chart) continue;
        const frame = outer.getBoundingClientRect();
        scrolls ||= flow === "auto" || flow === "scroll";
        if (!scrolls && outer !== document.body && outer !== document.documentElement
            && (left < frame.left - 1 || right > frame.right + 1)) faults.add(`“${text}” is cut`);
        [left, right] = [Math.max(left, frame.left), Math.min(right, frame.right)];
      }
      if (!scrolls && (box.left < -1 || box.right > innerWidth + 1)) faults.add(`“${text}” sticks out`);
      if (!chart && right - left > 2) lines.push({text, element, left, right, top: box.top, bottom: box.bottom});
    }
    let opacity = 1;
    for (const outer of all) opacity *= Number(getComputedStyle(outer).opacity);
    const under = groundOf(element), ink = parse(chart ? style.fill : style.color);
    const seen = over([...ink.slice(0, 3), ink[3] * opacity], under);
    const [high, low] = [light(seen), light(under)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) faults.add(`“${text.slice(0, 40)}” has a contrast of ${ratio.toFixed(2)} (${element.className || element.localName})`);
  }
  lines.sort((a, b) => a.top - b.top);
  lines.forEach((one, i) => {
    for (let j = i + 1; j < lines.length && lines[j].top < one.bottom - 3; ++j) {
      const other = lines[j];
      if (one.element.contains(other.element) || other.element.contains(one.element)) continue;
      if (Math.min(one.right, other.right) - Math.max(one.left, other.left) > 2
          && Math.min(one.bottom, other.bottom) - other.top > 4)
        faults.add(`“${one.text}” and “${other.text}” overlap`);
    }
  });
  if (document.documentElement.scrollWidth > innerWidth + 1) faults.add("the page scrolls sideways");
  return [...faults];
}
