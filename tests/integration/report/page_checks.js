// Functions that test_browser.py calls in the page.

// Texts with less contrast than WCAG 2.2 asks for (1.4.3, AA), and how many texts were looked at.
// Backgrounds may be translucent.
function lowContrast() {
  const rgba = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    return numbers.length < 4 ? [...numbers.slice(0, 3), 1] : numbers;
  };
  const over = (top, below) =>
    [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const linear = (value) =>
    value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = (colour) =>
    0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2]);
  const background = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.unshift(rgba(getComputedStyle(e).backgroundColor));
    }
    return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const found = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    const text = walker.currentNode.data.trim();
    const isDrawn = element.getBoundingClientRect().width > 0;
    if (!text || !isDrawn || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    seen += 1;
    const below = background(element);
    const colour = over(rgba(element.ownerSVGElement ? style.fill : style.color), below);
    const [low, high] = [luminance(colour), luminance(below)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if ((high + 0.05) / (low + 0.05) < (isLarge ? 3 : 4.5)) found.push([text, colour, below]);
  }
  return [seen, found];
}

// Numbers all that the keyboard must reach: controls, and boxes whose content is wider than they.
function controls() {
  const all = [...document.querySelectorAll("a[href], button, summary, .scroll")].filter(
    (e) =>
      e.getClientRects().length &&
      !e.closest("details:not([open]) > :not(summary)") &&
      (!e.matches(".scroll") || e.scrollWidth > e.clientWidth + 1),
  );
  all.forEach((e, index) => (e.dataset.number = index));
  return all.map((e) => e.dataset.number);
}

// The number of the control that has the focus, and whether one can see that it has.
function focused() {
  const style = getComputedStyle(document.activeElement);
  const isVisible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return [document.activeElement.dataset.number || document.activeElement.tagName, isVisible];
}
