"use strict";
const page = JSON.parse(document.getElementById("data").textContent);

// ---------------------------------------------------------------- pairs of views and their tangents

(function () {
  const see = page.see;
  const select = document.getElementById("pair");
  const panels = [document.getElementById("left"), document.getElementById("right")];
  const cells = [...document.querySelectorAll("[data-pair]")];
  const names = ["one", "two"];

  function worst(pair) {
    const missed = pair.flat().map((tangent) => tangent.missed).filter((value) => value !== null);
    return missed.length ? Math.max(...missed) : null;
  }

  for (let i = 0; i < see.views.length; i++) {
    for (let j = i + 1; j < see.views.length; j++) {
      const pair = see.pairs[i + "-" + j];
      const most = pair ? worst(pair) : null;
      const figure = most === null ? "cannot tell" : "at most " + most.toFixed(1) + " px";
      select.add(new Option(i + " and " + j + " · " + figure, i + "-" + j));
    }
  }

  function tangentMarks(tangent, side, name) {
    const [x, y] = tangent.point, [u, v] = tangent.foot, [a, b] = tangent.along;
    const far = 6 * side, dim = tangent.missed === null ? " mute" : "";
    const ends = `x1="${u - far * a}" y1="${v - far * b}" x2="${u + far * a}" y2="${v + far * b}"`;
    const circle = `cx="${x}" cy="${y}" r="${0.016 * side}"`;
    let marks = `<line class="line ${name}${dim}" ${ends}/>`;
    if (tangent.missed !== null && Math.hypot(u - x, v - y) > 0.02 * side) {
      marks += `<line class="missed" x1="${x}" y1="${y}" x2="${u}" y2="${v}"/>`;
    }
    return marks + `<circle class="halo" ${circle}/><circle class="touch ${name}${dim}" ${circle}/>`;
  }

  function missLabel(tangent, view) {
    const [x, y] = tangent.point, [u, v] = tangent.foot, [left, top, side] = view.box;
    if (tangent.missed === null || Math.hypot(u - x, v - y) <= 0.02 * side) return "";
    const size = 0.036 * side;
    const atX = Math.min(Math.max((x + u) / 2 + 0.03 * side, left + 0.03 * side), left + 0.8 * side);
    const atY = Math.min(Math.max((y + v) / 2 + 0.012 * side, top + 0.06 * side), top + 0.96 * side);
    const words = tangent.missed.toFixed(1) + " px", wide = 0.56 * words.length + 0.5;
    return `<g transform="translate(${atX} ${atY}) scale(${size})"><rect class="label" x="-.35" y="-1" width="${wide}" height="1.35" rx=".3"/><text>${words}</text></g>`;
  }

  function drawPanel(svg, view, other, tangents) {
    const shown = see.views[view], [left, top, side] = shown.box, [x, y, width, height] = shown.inside;
    const place = `x="${x}" y="${y}" width="${width}" height="${height}"`;
    svg.setAttribute("viewBox", `${left} ${top} ${side} ${side}`);
    svg.setAttribute("aria-label", `View ${view} with the tangents of view ${other}`);
    let drawing = `<image href="${shown.image}" ${place} preserveAspectRatio="none" class="${see.pixelated ? "pixelated" : ""}"/>`;
    drawing += `<rect class="edge" x="0" y="0" width="${see.size[0]}" height="${see.size[1]}"/><path class="outline" d="${shown.outline}"/>`;
    (tangents || []).forEach((tangent, k) => { drawing += tangentMarks(tangent, side, names[k]); });
    (tangents || []).forEach((tangent) => { drawing += missLabel(tangent, shown); });
    svg.innerHTML = drawing;
    const caption = svg.parentElement.querySelector("figcaption");
    const head = document.createElement("b");
    head.textContent = "View " + view;
    caption.replaceChildren(head, sentence(tangents, view, other));
  }

  function sentence(tangents, view, other) {
    const filled = [view, other].filter((one) => see.filled.includes(one));
    if (filled.length) return ` · this pair cannot tell: the mask of view ${filled.join(" and of view ")} fills the frame`;
    if (!tangents) return " · this pair cannot tell: the line between the cameras runs through or close by the object";
    const told = tangents.filter((tangent) => tangent.missed !== null).map((tangent) => tangent.missed.toFixed(2) + " px");
    if (!told.length) return ` · nothing is told by view ${other}: the picture’s edge cuts the outline there`;
    const cut = told.length < tangents.length ? "; the other, dotted, says nothing: the picture’s edge cuts the outline there" : "";
    return ` · ${cut ? "a plane" : "planes"} of view ${other} miss${cut ? "es" : ""} by ${told.join(" and ")}${cut}`;
  }

  function show(key) {
    const [i, j] = key.split("-").map(Number), pair = see.pairs[key];
    drawPanel(panels[0], i, j, pair && pair[0]);
    drawPanel(panels[1], j, i, pair && pair[1]);
    select.value = key;
    cells.forEach((cell) => cell.setAttribute("aria-pressed", String(cell.dataset.pair === key)));
  }

  select.addEventListener("change", () => show(select.value));
  cells.forEach((cell) => cell.addEventListener("click", () => {
    show(cell.dataset.pair);
    document.getElementById("see").scrollIntoView({ behavior: "smooth" });
  }));
  show(see.first.join("-"));
})();

// ---------------------------------------------------------------- the rig

(function () {
  const rig = page.rig;
  const canvas = document.getElementById("rig"), pen = canvas.getContext("2d");
  const start = { azimuth: -62, elevation: 24, zoom: 1 };
  let eye = { ...start }, frame = 0;

  const radians = (degrees) => (degrees * Math.PI) / 180;
  const add = (p, q, t) => p.map((value, i) => value + t * q[i]);
  const widest = Math.max(...rig.views.map((v) => Math.hypot(...add(v.centre, rig.target, -1))), rig.facelift ? rig.facelift.distance : 0);

  const middle = [rig.target[0], rig.target[1], (Math.max(...rig.views.map((v) => v.centre[2])) + rig.floor) / 2];

  function projector(width, height) {
    const a = radians(eye.azimuth), e = radians(eye.elevation), away = 3.1 * widest;
    const right = [-Math.sin(a), Math.cos(a), 0];
    const up = [-Math.sin(e) * Math.cos(a), -Math.sin(e) * Math.sin(a), Math.cos(e)];
    const back = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
    const dot = (p, q) => p[0] * q[0] + p[1] * q[1] + p[2] * q[2];
    const focal = Math.min(1.25 * width, 2.1 * height) * eye.zoom;
    return (point) => {
      const d = add(point, middle, -1), depth = away - dot(d, back);
      return { x: width / 2 + (focal * dot(d, right)) / depth, y: height * 0.5 - (focal * dot(d, up)) / depth, depth, near: depth < 0.05 * away };
    };
  }

  function stroke(project, points, close) {
    const places = points.map(project);
    if (places.some((place) => place.near)) return;
    pen.beginPath();
    places.forEach((place, i) => (i ? pen.lineTo(place.x, place.y) : pen.moveTo(place.x, place.y)));
    if (close) pen.closePath();
    pen.stroke();
  }

  function circle(centre, radius, height) {
    return Array.from({ length: 97 }, (_, i) => {
      const t = (2 * Math.PI * i) / 96;
      return [centre[0] + radius * Math.cos(t), centre[1] + radius * Math.sin(t), height];
    });
  }

  function niceStep(length) {
    const power = 10 ** Math.floor(Math.log10(length)), rest = length / power;
    return power * (rest < 2 ? 1 : rest < 5 ? 2 : 5);
  }

  function drawGround(project, colour) {
    const step = niceStep(widest / 4), cells = Math.ceil((1.05 * widest) / step), [cx, cy] = rig.target.map((v) => Math.round(v / step) * step);
    pen.strokeStyle = colour("--line");
    pen.lineWidth = 1;
    for (let k = -cells; k <= cells; k++) {
      const reach = Math.sqrt(Math.max(0, cells * cells - k * k)) * step;
      stroke(project, [[cx + k * step, cy - reach, rig.floor], [cx + k * step, cy + reach, rig.floor]]);
      stroke(project, [[cx - reach, cy + k * step, rig.floor], [cx + reach, cy + k * step, rig.floor]]);
    }
  }

  function drawFacelift(project, colour) {
    if (!rig.facelift) return;
    const e = radians(rig.facelift.elevation), d = rig.facelift.distance;
    pen.save();
    pen.strokeStyle = colour("--muted");
    pen.globalAlpha = 0.75;
    pen.setLineDash([5, 5]);
    stroke(project, circle([0, 0], d * Math.cos(e), d * Math.sin(e)));
    pen.restore();
  }

  function drawAxes(project, colour) {
    const length = 0.34 * widest;
    [["x", [1, 0, 0]], ["y", [0, 1, 0]], ["z", [0, 0, 1]]].forEach(([name, axis]) => {
      const tip = add([0, 0, 0], axis, length), place = project(add(tip, axis, 0.05 * widest));
      pen.strokeStyle = pen.fillStyle = colour("--" + name);
      pen.lineWidth = 2;
      stroke(project, [[0, 0, 0], tip]);
      pen.fillText(name, place.x, place.y);
    });
  }

  function drawObject(project, colour) {
    pen.fillStyle = pen.strokeStyle = colour("--accent");
    pen.save();
    pen.globalAlpha = 0.5;
    rig.points.forEach((point) => {
      const place = project(point);
      if (!place.near) pen.fillRect(place.x - 1, place.y - 1, 2, 2);
    });
    if (!rig.points.length) {
      const { centre, reach } = rig.object, place = project(centre), side = project(add(centre, [0, 0, 1], reach));
      pen.beginPath();
      pen.arc(place.x, place.y, Math.hypot(side.x - place.x, side.y - place.y), 0, 2 * Math.PI);
      pen.stroke();
    }
    pen.restore();
  }

  function drawCamera(project, colour, view, number) {
    const size = 0.2 * rig.distance, corners = view.corners.map((corner) => add(view.centre, corner, size));
    const top = add(corners[0].map((value, i) => (value + corners[1][i]) / 2), corners[0].map((value, i) => value - corners[3][i]), 0.28);
    pen.strokeStyle = pen.fillStyle = colour(view.bad ? "--bad" : "--ink");
    pen.lineWidth = 1.25;
    corners.forEach((corner) => stroke(project, [view.centre, corner]));
    stroke(project, corners, true);
    stroke(project, [corners[0], top, corners[1]]);
    pen.save();
    pen.globalAlpha = 0.22;
    pen.lineWidth = 1;
    const axis = view.corners[0].map((_, i) => view.corners.reduce((sum, corner) => sum + corner[i], 0) / 4);
    stroke(project, [view.centre, add(view.centre, axis, rig.distance / Math.hypot(...axis))]);
    pen.restore();
    const label = project(add(view.centre, axis, -0.07 * rig.distance / Math.hypot(...axis)));
    pen.lineWidth = 4;
    pen.strokeStyle = colour("--surface");
    pen.strokeText(number, label.x, label.y);
    pen.fillText(number, label.x, label.y);
  }

  function draw() {
    frame = 0;
    const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
    const { width, height } = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    pen.font = "600 13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = pen.lineCap = "round";
    const project = projector(width, height);
    drawGround(project, colour);
    drawFacelift(project, colour);
    drawAxes(project, colour);
    drawObject(project, colour);
    rig.views
      .map((view, number) => ({ view, number, depth: project(view.centre).depth }))
      .sort((one, two) => two.depth - one.depth)
      .forEach(({ view, number }) => drawCamera(project, colour, view, number));
  }

  const redraw = () => { frame = frame || requestAnimationFrame(draw); };
  function turn(azimuth, elevation, zoom) {
    eye.azimuth += azimuth;
    eye.elevation = Math.min(89, Math.max(-40, eye.elevation + elevation));
    eye.zoom = Math.min(8, Math.max(0.4, eye.zoom * zoom));
    redraw();
  }

  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) turn(-0.4 * event.movementX, 0.4 * event.movementY, 1);
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); turn(0, 0, Math.exp(-0.0012 * event.deltaY)); }, { passive: false });
  canvas.addEventListener("dblclick", () => { eye = { ...start }; redraw(); });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [6, 0, 1], ArrowRight: [-6, 0, 1], ArrowUp: [0, 5, 1], ArrowDown: [0, -5, 1], "+": [0, 0, 1.15], "=": [0, 0, 1.15], "-": [0, 0, 0.87] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    turn(...steps[event.key]);
  });
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  draw();
})();
