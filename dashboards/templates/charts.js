// Draws figures of dashboards/charts. A colour there is "@" and the name of a variable of style.css.
"use strict";
const charts = (() => {
  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset", scrollZoom: false };
  const DATA = new Set(["x", "y", "customdata", "values"]);  // parts without colours, which may be long
  const drawn = new Map();

  function paint(value, styles) {
    if (typeof value === "string") {
      return value[0] === "@" ? styles.getPropertyValue("--" + value.slice(1)).trim() : value;
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

  const colour = (place) => `--series-${(place + 3) % 8 + 1}`;  // of the trial that was followed after so many others

  // The figure with the marks and lines of some trials once more, each trial in a colour of its own, above the others.
  function followed(figure, names) {
    const again = names.flatMap((name, i) => figure.data
      .filter((trace) => trace.customdata && trace.type === "scatter" && trace.name !== "best so far")
      .map((trace) => traced(trace, name, `@${colour(i).slice(2)}`))
      .filter((trace) => trace.x.some((one) => one !== null)));
    return { ...figure, data: [...figure.data, ...again] };
  }

  function traced(trace, name, colour) {
    const named = (i) => [trace.customdata[i]].flat()[0]?.split(" ")[0] === name;
    const at = [...trace.x.keys()].filter(named), pick = (values) => at.map((i) => values[i]);
    const marker = { color: colour, size: trace.mode === "markers" ? 12 : 5, line: { width: 2, color: "@surface" } };
    return { ...trace, x: pick(trace.x), y: pick(trace.y), customdata: pick(trace.customdata), name, opacity: 1,
      marker, line: { width: 3, color: colour }, showlegend: trace.mode !== "markers" && trace.mode !== "text" };
  }

  const repaint = () => drawn.forEach((figure, element) => draw(element, figure));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  return { draw, followed, colour };
})();
