"use strict";
// Lines over steps of a few runs, drawn as SVG, a colour a run.
window.mouselift = {};
(() => {
  const NS = "http://www.w3.org/2000/svg", HEIGHT = 300, LEFT = 62, RIGHT = 14, TOP = 10, BOTTOM = 34;

  function node(name, attributes, text) {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const short = value => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
    return String(Number(value.toPrecision(4)));
  };
  function ticks(least, most, count, log) {
    if (log) {
      const found = [];
      for (let k = Math.floor(Math.log10(least)); k <= Math.ceil(Math.log10(most)); k++) found.push(10 ** k);
      const inside = found.filter(value => value >= least * 0.999 && value <= most * 1.001);
      if (inside.length > 1) return inside;
    }
    const raw = (most - least) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(k => k * power).find(k => k >= raw);
    const found = [];
    for (let value = Math.ceil(least / step) * step; value <= most + step * 1e-9; value += step) found.push(value);
    return found;
  }
  function nearest(points, x) {
    let low = 0, high = points.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; points[middle][0] < x ? low = middle : high = middle; }
    return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
  }

  // lines: [{name, points: [[x, y], …], series: 0…5 or null}]; y that is no number is left out.
  function draw(figure, {metric, lines, log, x}) {
    const width = Math.max(280, Math.round(figure.clientWidth - 24));
    const kept = lines.map(line => ({...line, points: line.points.filter(p => Number.isFinite(p[1]) && (!log || p[1] > 0))}));
    const all = kept.flatMap(line => line.points);
    figure.replaceChildren();
    if (!all.length) { figure.textContent = "No figure yet."; return; }
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const [a, b] of all) { x0 = Math.min(x0, a); x1 = Math.max(x1, a); y0 = Math.min(y0, b); y1 = Math.max(y1, b); }
    if (x0 === x1) { x0 -= 1; x1 += 1; }
    const scale = log ? Math.log10 : value => value;
    let [s0, s1] = [scale(y0), scale(y1)];
    if (s0 === s1) { s0 -= 0.5; s1 += 0.5; }
    [s0, s1] = [s0 - 0.04 * (s1 - s0), s1 + 0.04 * (s1 - s0)];
    const px = value => LEFT + (value - x0) / (x1 - x0) * (width - LEFT - RIGHT);
    const py = value => TOP + (s1 - scale(value)) / (s1 - s0) * (HEIGHT - TOP - BOTTOM);
    const svg = node("svg", {viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${metric} over ${x || "steps"}: ${kept.length} runs, ${short(y0)} to ${short(y1)}`});
    for (const value of ticks(log ? y0 : s0, log ? y1 : s1, 5, log)) {
      svg.append(node("line", {class: "grid", x1: LEFT, x2: width - RIGHT, y1: py(value), y2: py(value)}));
      svg.append(node("text", {x: LEFT - 8, y: py(value) + 4, "text-anchor": "end"}, short(value)));
    }
    for (const value of ticks(x0, x1, Math.max(2, Math.floor(width / 120)))) {
      svg.append(node("text", {x: px(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle"}, short(value)));
    }
    svg.append(node("text", {x: width - RIGHT, y: HEIGHT - 2, "text-anchor": "end"}, x || "steps"));
    const drawn = [];
    for (const line of [...kept].reverse()) {  // the first on top
      if (!line.points.length) continue;
      const mark = line.series == null ? "" : ` s${line.series}`;
      const d = line.points.map(([a, b], i) => `${i ? "L" : "M"}${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join("");
      const path = node("path", {class: `line${mark}`, d});
      svg.append(path);
      if (line.points.length === 1) svg.append(node("circle", {class: `lone${mark}`, cx: px(line.points[0][0]), cy: py(line.points[0][1]), r: 3}));
      drawn.push({line, path});
    }
    const dot = node("circle", {r: 4, visibility: "hidden"}), tip = document.createElement("div");
    svg.append(dot);
    tip.className = "tip";
    tip.hidden = true;
    function point(event) {
      const box = svg.getBoundingClientRect(), factor = width / box.width;
      const mx = (event.clientX - box.left) * factor, my = (event.clientY - box.top) * factor;
      const at = x0 + (mx - LEFT) / (width - LEFT - RIGHT) * (x1 - x0);
      let best = null;
      for (const one of drawn) {
        const p = nearest(one.line.points, at), away = Math.hypot((px(p[0]) - mx) / 4, py(p[1]) - my);
        if (!best || away < best.away) best = {...one, p, away};
      }
      for (const one of drawn) one.path.classList.toggle("near", one === best || one.path === best.path);
      dot.setAttribute("cx", px(best.p[0])); dot.setAttribute("cy", py(best.p[1])); dot.setAttribute("visibility", "visible");
      tip.textContent = `${best.line.name} · ${x || "step"} ${short(best.p[0])} · ${short(best.p[1])}`;
      tip.hidden = false;
      tip.style.left = `${Math.min(px(best.p[0]) / factor + 12, figure.clientWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.max(4, py(best.p[1]) / factor - 18)}px`;
    }
    function leave() {
      tip.hidden = true;
      dot.setAttribute("visibility", "hidden");
      for (const one of drawn) one.path.classList.remove("near");
    }
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerleave", leave);
    figure.append(svg, tip);
    const named = kept.filter(line => line.series != null);
    if (named.length) {
      const legend = document.createElement("div");
      legend.className = "legend";
      for (const line of named) {
        const entry = document.createElement("span");
        entry.className = `s${line.series}`;
        entry.textContent = line.name;
        legend.append(entry);
      }
      figure.append(legend);
    }
  }
  window.mouselift.draw = draw;
})();
