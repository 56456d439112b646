// Draws figures of dashboards/charts. A colour there is "@" and the name of a variable of style.css.
"use strict";
const charts = (() => {
  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset", scrollZoom: false };
  const DATA = new Set(["x", "y", "customdata", "values"]);  // parts without colours, which may be long
  const drawn = new Map();

  function paint(value, styles) {
    if (typeof value === "string") {
      return value[0] === "@" ? styles.getPropertyValue("-" + "-" + value.slice(1)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((one) => paint(one, styles));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, one]) => [key, DATA.has(key) ? one : paint(one, styles)]));
  }

  async function draw(element, figure) {
    drawn.set(element, figure);
    const painted = paint(figure, getComputedStyle(document.documentElement));
    const layout = { ...painted.layout, autosize: true };
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;  // a finger scrolls the page
    await Plotly.react(element, painted.data, layout, CONFIG);
  }

  const repaint = () => drawn.forEach((figure, element) => draw(element, figure));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  return { draw };
})();
