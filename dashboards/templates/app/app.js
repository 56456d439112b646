"use strict";
// The pages as they live: parts marked data-live are replaced by those of the same page asked for again, and nothing
// else moves: what is chosen, sorted, opened, zoomed or scrolled stays.
(() => {
  const EVERY = 3000, SERIES = 6;
  const {draw} = window.mouselift;
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // ---------------------------------------------------------------- charts
  const kept = new Map();  // place -> what draws it anew
  function keep(figure, make) {
    const again = () => draw(figure, make());
    kept.set(figure, again);
    again();
  }
  function redraw() { for (const [figure, again] of kept) if (figure.isConnected) again(); }
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; redraw(); } });

  // The charts of a sweep: plotly's, asked for anew when there is news of the sweep.
  async function sweepCharts(place) {
    let shown = "";
    async function again() {
      const news = place.previousElementSibling.textContent;
      if (news === shown) return;
      let topics;
      try {
        const answer = await fetch(place.dataset.charts);
        if (!answer.ok) return;
        topics = (await answer.json()).charts;
      } catch (error) {
        if (error instanceof TypeError) return;  // the server is away, which the page says
        throw error;
      }
      shown = news;
      const known = new Map([...place.children].map(figure => [figure.dataset.key, figure]));
      for (const one of topics) {
        const figure = known.get(one.key) || chartFigure(one);
        known.delete(one.key);
        place.append(figure);
        figure.give(one);
      }
      for (const gone of known.values()) gone.remove();
    }
    kept.set(place, again);
    await again();
  }
  function chartFigure(one) {
    const caption = element("p"), chart = element("div", {class: "chart"}), names = Object.keys(one.figures);
    const figure = element("figure", {"data-key": one.key, class: one.kind}, element("figcaption", {}, element("h3", {}, one.title)), chart);
    let current = names[0], last = one;
    chart.style.height = `${one.height}px`;
    const show = () => {
      const drawn = last.figures[current];
      charts.draw(chart, {...drawn, layout: {...drawn.layout, uirevision: current || "kept"}});
    };
    if (names.length > 1) {
      const choice = element("div", {class: "switch", role: "radiogroup", "aria-label": `Axis of ${one.title}`});
      for (const name of names) {
        const input = element("input", {type: "radio", name: one.key, value: name});
        input.checked = name === current;
        input.addEventListener("change", () => { current = name; show(); });
        choice.append(element("label", {}, input, name));
      }
      figure.firstChild.append(choice);
    }
    figure.firstChild.append(caption);
    figure.give = fresh => { last = fresh; caption.textContent = fresh.caption; show(); };
    return figure;
  }

  function metricCharts(place) {
    const source = place.dataset.metrics;
    const names = () => {
      const {first, runs} = read(source), found = new Set(runs.flatMap(run => Object.keys(run.metrics)));
      const weight = name => (name === first ? 0 : name.startsWith("val/") && !name.startsWith("val/input/") ? 1 : name === "train/loss" ? 2 : name.startsWith("train/") ? 3 : 4);
      return [...found].sort((a, b) => weight(a) - weight(b) || a.localeCompare(b));
    };
    const select = element("select", {"aria-label": "Figure"}), figure = element("figure", {class: "plot"});
    const log = element("button", {type: "button", "aria-pressed": "false"}, "Logarithmic");
    const axis = element("select", {"aria-label": "Over"}, element("option", {value: "steps"}, "over steps"), element("option", {value: "minutes"}, "over minutes"));
    for (const name of names()) select.append(element("option", {value: name}, name));
    place.append(element("div", {class: "controls"}, select, axis, log), figure);
    const make = () => {
      const {runs} = read(source), minutes = axis.value === "minutes";
      const lines = runs.map((run, i) => {
        const points = run.metrics[select.value] || [];
        const begin = run.opened || (points.length ? points[0][2] : 0);
        return {name: run.name, series: run.series ?? i % SERIES, points: points.map(([step, value, time]) => [minutes ? (time - begin) / 60 : step, value])};
      });
      return {metric: select.value, lines, log: log.getAttribute("aria-pressed") === "true", x: minutes ? "minutes" : "steps"};
    };
    keep(figure, make);
    for (const one of [select, axis]) one.addEventListener("change", () => kept.get(figure)());
    log.addEventListener("click", () => { log.setAttribute("aria-pressed", String(log.getAttribute("aria-pressed") !== "true")); kept.get(figure)(); });
  }

  // ---------------------------------------------------------------- pictures by step, with one zoom for all
  function gallery(place) {
    const view = {scale: 1, x: 0, y: 0};  // x and y in shares of the picture's width and height
    const runs = () => read(place.dataset.gallery);
    const named = () => [...new Set(runs().flatMap(run => run.pictures.map(picture => picture.name)))].sort();
    const steps = name => [...new Set(runs().flatMap(run => run.pictures.filter(p => p.name === name).map(p => p.step)))].sort((a, b) => a - b);
    const select = element("select", {"aria-label": "Picture"});
    for (const name of named()) select.append(element("option", {value: name}, name));
    if (select.options.length < 2) select.hidden = true;
    const slider = element("input", {type: "range", min: "0", "aria-label": "Step"}), label = element("output", {}, "");
    const buttons = [["+", "Zoom in", 1.5], ["−", "Zoom out", 1 / 1.5]].map(([sign, said, factor]) => {
      const made = element("button", {type: "button", "aria-label": said}, sign);
      made.addEventListener("click", () => zoom(factor, 0.5, 0.5));
      return made;
    });
    const whole = element("button", {type: "button"}, "Whole");
    whole.addEventListener("click", () => { Object.assign(view, {scale: 1, x: 0, y: 0}); place_all(); });
    const pictures = element("div", {class: "pictures"});
    place.append(element("div", {class: "controls"}, select, element("label", {}, "Step", slider, label), ...buttons, whole), pictures);

    function place_all() {
      const most = 1 - 1 / view.scale;
      view.x = Math.max(0, Math.min(most, view.x));
      view.y = Math.max(0, Math.min(most, view.y));
      for (const image of pictures.querySelectorAll("img")) image.style.transform = `scale(${view.scale}) translate(${-100 * view.x}%, ${-100 * view.y}%)`;
    }
    function zoom(factor, x, y) {
      const scale = Math.max(1, Math.min(16, view.scale * factor));
      view.x += x / view.scale - x / scale;
      view.y += y / view.scale - y / scale;
      view.scale = scale;
      place_all();
    }
    function hands(frame) {
      const fingers = new Map();
      const share = event => { const box = frame.getBoundingClientRect(); return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]; };
      frame.addEventListener("wheel", event => {
        if (!event.ctrlKey && !event.shiftKey && view.scale === 1 && event.deltaY > 0) return;  // the page scrolls
        event.preventDefault();
        zoom(Math.exp(-Math.sign(event.deltaY) * 0.2), ...share(event));
      }, {passive: false});
      frame.addEventListener("pointerdown", event => { frame.setPointerCapture(event.pointerId); fingers.set(event.pointerId, share(event)); });
      frame.addEventListener("pointermove", event => {
        const from = fingers.get(event.pointerId);
        if (!from) return;
        const to = share(event), before = [...fingers.values()];
        fingers.set(event.pointerId, to);
        const now = [...fingers.values()];
        if (now.length === 2) zoom(Math.hypot(now[0][0] - now[1][0], now[0][1] - now[1][1]) / Math.max(0.01, Math.hypot(before[0][0] - before[1][0], before[0][1] - before[1][1])), (now[0][0] + now[1][0]) / 2, (now[0][1] + now[1][1]) / 2);
        view.x -= (to[0] - from[0]) / view.scale / now.length;
        view.y -= (to[1] - from[1]) / view.scale / now.length;
        place_all();
      });
      for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, event => fingers.delete(event.pointerId));
      frame.addEventListener("keydown", event => {
        const moves = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1]};
        if (event.key === "+" || event.key === "=") zoom(1.25, 0.5, 0.5);
        else if (event.key === "-") zoom(0.8, 0.5, 0.5);
        else if (event.key === "0") { Object.assign(view, {scale: 1, x: 0, y: 0}); place_all(); }
        else if (moves[event.key] && view.scale > 1) { view.x += moves[event.key][0] / view.scale; view.y += moves[event.key][1] / view.scale; place_all(); }
        else return;
        event.preventDefault();
      });
    }
    function show() {
      const all = steps(select.value), last = Number(slider.value) >= Number(slider.max);
      slider.max = String(Math.max(0, all.length - 1));
      if (last || !slider.dataset.begun) slider.value = slider.max;  // who looks at the newest sees the next one, too
      slider.dataset.begun = "1";
      const step = all[Number(slider.value)];
      slider.disabled = all.length < 2;
      slider.setAttribute("aria-valuetext", `step ${step}`);
      label.textContent = step === undefined ? "" : step.toLocaleString("en");
      runs().forEach((run, i) => {
        let figure = pictures.children[i];
        if (!figure) {
          const frame = element("div", {class: "window", tabindex: "0", role: "group", "aria-label": `Picture of ${run.name}; + and - zoom all, arrow keys move`});
          figure = element("figure", {}, element("figcaption"), frame);
          hands(frame);
          pictures.append(figure);
        }
        const shown = run.pictures.filter(p => p.name === select.value && p.step <= step).at(-1);
        const caption = figure.querySelector("figcaption"), frame = figure.querySelector(".window");
        caption.replaceChildren();
        if (runs().length > 1) caption.append(element("span", {class: `swatch s${(run.series ?? i) % SERIES}`}), `${run.name}: `);
        caption.append(shown ? `step ${shown.step.toLocaleString("en")}` : "no picture up to this step");
        const image = frame.querySelector("img");
        if (!shown) frame.replaceChildren();
        else if (!image) frame.append(element("img", {src: shown.url, alt: `${select.value} of ${run.name} at step ${shown.step}`, draggable: "false"}));
        else if (image.getAttribute("src") !== shown.url) { image.src = shown.url; image.alt = `${select.value} of ${run.name} at step ${shown.step}`; }
      });
      while (pictures.children.length > runs().length) pictures.lastChild.remove();
      pictures.classList.toggle("one", runs().length === 1);
      place_all();
    }
    slider.addEventListener("input", show);
    select.addEventListener("change", show);
    kept.set(place, show);
    show();
  }

  // ---------------------------------------------------------------- tables
  const collator = new Intl.Collator("en", {numeric: true});
  function sort(table) {
    const column = Number(table.dataset.column), down = table.dataset.down === "1";
    if (!table.dataset.column) return;
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [p, q] = [value(a), value(b)];
      if (p === "" || q === "") return (p === "") - (q === "");  // what is not known comes last either way
      const [m, n] = [Number(p), Number(q)];
      const order = Number.isNaN(m) || Number.isNaN(n) ? collator.compare(p, q) : m - n;
      return down ? -order : order;
    });
    if (rows.some((row, i) => table.tBodies[0].rows[i] !== row)) table.tBodies[0].append(...rows);
  }
  function sortable(table) {
    table.querySelectorAll("[data-sort]").forEach(button => button.addEventListener("click", () => {
      const head = button.closest("th"), column = String(head.cellIndex);
      const down = table.dataset.column === column ? table.dataset.down !== "1" : head.classList.contains("number");
      Object.assign(table.dataset, {column, down: down ? "1" : "0"});
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table);
    }));
  }
  function counted() {
    const place = document.getElementById("chosen");
    if (!place) return;
    const many = document.querySelectorAll("input[name=run]:checked").length;
    place.textContent = many ? `${many} chosen` : "choose some:";
    document.querySelectorAll("#trials button[type=submit]").forEach(button => { button.disabled = !many; });
  }
  document.addEventListener("change", event => { if (event.target.name === "run") counted(); });

  // ---------------------------------------------------------------- Gaussians that turn together
  const frames = () => [...document.querySelectorAll(".scene iframe")];
  let eye = null;  // where the cameras are that are locked together
  window.addEventListener("message", ({data, source}) => {
    const lock = document.getElementById("lock");
    if (!data || data.mouselift !== "camera" || !frames().some(frame => frame.contentWindow === source)) return;
    eye = data.eye;
    if (lock && lock.getAttribute("aria-pressed") === "true") spread(source);
  });
  function spread(source) {
    for (const frame of frames()) if (frame.contentWindow !== source) frame.contentWindow.postMessage({mouselift: "camera", eye}, "*");
  }
  function lockable(lock) {
    lock.addEventListener("click", () => {
      const locked = lock.getAttribute("aria-pressed") !== "true";
      lock.setAttribute("aria-pressed", String(locked));
      lock.textContent = locked ? "Cameras locked together" : "Each camera alone";
      if (locked && eye) spread(null);
    });
  }

  // ---------------------------------------------------------------- the page asked for again
  const held = new Map();  // id -> the part as the server last gave it
  const parts = from => [...from.querySelectorAll("[data-live]")];
  function remember() { held.clear(); for (const part of parts(document)) held.set(part.id, part.innerHTML); }

  function renewed(part, fresh) {
    if (held.get(part.id) === fresh.innerHTML) return false;
    held.set(part.id, fresh.innerHTML);
    const focus = document.activeElement, inside = part.contains(focus);
    const mark = inside && (focus.getAttribute("href") || focus.value);
    if (part.tagName === "TBODY" && fresh.querySelector("[data-key]")) {
      const known = new Map([...part.rows].map(row => [row.dataset.key, row]));
      const table = part.closest("table");
      for (const row of [...fresh.rows]) {
        const old = known.get(row.dataset.key);
        if (old && old.dataset.given === row.innerHTML) part.append(old);
        else {
          const given = row.innerHTML, box = old && old.querySelector("input[name=run]");
          row.dataset.given = given;
          if (box && box.checked) row.querySelector("input[name=run]").checked = true;
          if (old) old.remove();
          part.append(row);
        }
        known.delete(row.dataset.key);
      }
      for (const gone of known.values()) gone.remove();
      sort(table);
    } else {
      part.replaceChildren(...fresh.childNodes);
    }
    if (inside && !part.contains(document.activeElement)) {
      const again = [...part.querySelectorAll("a, input, button")].find(one => (one.getAttribute("href") || one.value) === mark);
      if (again) again.focus({preventScroll: true});
    }
    return true;
  }

  // The whole content anew, with what was chosen, sorted and scrolled.
  function replaced(main, other) {
    const chosen = new Set([...document.querySelectorAll("input[name=run]:checked")].map(box => box.value));
    const orders = [...document.querySelectorAll("table.sortable")].map(table => ({...table.dataset}));
    const top = window.scrollY;
    main.replaceWith(document.adoptNode(other));
    begin();
    for (const box of document.querySelectorAll("input[name=run]")) if (chosen.has(box.value)) box.checked = true;
    document.querySelectorAll("table.sortable").forEach((table, i) => {
      if (!orders[i] || !orders[i].column) return;
      Object.assign(table.dataset, orders[i]);
      const head = table.tHead.rows[0].cells[Number(orders[i].column)];
      if (head) head.setAttribute("aria-sort", orders[i].down === "1" ? "descending" : "ascending");
      sort(table);
    });
    counted();
    window.scrollTo({top, behavior: "instant"});
  }

  const pulse = document.getElementById("pulse"), away = document.getElementById("away");
  let paused = false, seen = Date.now(), wait = EVERY;
  const button = element("button", {type: "button", "aria-pressed": "false"}, "Pause");
  button.addEventListener("click", () => { paused = !paused; button.setAttribute("aria-pressed", String(paused)); said(); if (!paused) ask(); });
  const words = element("span");
  pulse.append(words, " ", button);
  function said() { words.textContent = paused ? "paused" : `live, as of ${new Date(seen).toLocaleTimeString("en-GB")}`; }
  function problem(text) { away.textContent = text; away.hidden = !text; }

  async function ask() {
    const begun = performance.now();
    try {
      const answer = await fetch(location.href, {headers: {Accept: "text/html"}});
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = document.getElementById("main"), other = fresh.getElementById("main");
      if (!other) throw new TypeError("no page");
      const broken = other.dataset.page === "problem", showing = main.dataset.page === "problem";
      if (broken && !showing) problem(`${fresh.getElementById("problem").textContent} What is shown is as of ${new Date(seen).toLocaleTimeString("en-GB")}; it is asked for again.`);
      else {
        problem("");
        if (broken !== showing) {
          document.title = fresh.title;
          replaced(main, other);
        } else if (!broken) {
          const ids = new Set(parts(document).map(part => part.id)), shape = parts(fresh).map(part => part.id);
          if (shape.length !== ids.size || shape.some(id => !ids.has(id))) {  // another table, the first preview
            replaced(main, other);
          } else if (parts(fresh).map(part => renewed(document.getElementById(part.id), part)).some(Boolean)) {
            redraw();
            counted();
          }
        }
        seen = Date.now();
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      problem(`The dashboard does not answer. What is shown is as of ${new Date(seen).toLocaleTimeString("en-GB")}; it is asked again every few seconds.`);
    }
    wait = Math.max(EVERY, 20 * (performance.now() - begun));  // a large page is asked for less often
    said();
  }
  async function live() {
    if (!paused && !document.hidden) await ask();
    setTimeout(live, wait);
  }

  function begin() {
    kept.clear();
    remember();
    for (const body of document.querySelectorAll("tbody[data-live]")) for (const row of body.rows) row.dataset.given = row.innerHTML;
    document.querySelectorAll("[data-charts]").forEach(sweepCharts);
    document.querySelectorAll("[data-metrics]").forEach(metricCharts);
    document.querySelectorAll("[data-gallery]").forEach(gallery);
    document.querySelectorAll("table.sortable").forEach(sortable);
    document.querySelectorAll("#lock").forEach(lockable);
    counted();
  }
  begin();
  said();
  setTimeout(live, wait);
})();
