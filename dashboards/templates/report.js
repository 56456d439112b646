// Unpacks what the report carries, draws its charts from the top down, and answers to its controls.
const page = document.documentElement, all = (selector) => [...document.querySelectorAll(selector)];
const ROWS = {{ rows_at_first }};

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

function restored(value, pool) {  // the long lists, which are written once each, in their places
  if (Array.isArray(value)) return value.map((one) => restored(one, pool));
  if (value === null || typeof value !== "object") return value;
  if ("pool" in value) return pool[value.pool];
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, restored(one, pool)]));
}

function isSeen(element) {
  const box = element.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}

const shown = new Map(), follows = new Set();  // chart -> its figure; names of trials
const redraw = (element) => charts.draw(element, charts.followed(shown.get(element), [...follows]));

function follow(button) {
  const name = button.dataset.follow;
  if (!follows.delete(name)) follows.add(name);
  pressed();
  shown.forEach((_, element) => redraw(element));
}

function pressed() {
  const names = [...follows];
  all("[data-follow]").forEach((one) => {
    const place = names.indexOf(one.dataset.follow);
    one.setAttribute("aria-pressed", String(place >= 0));
    one.style.background = place < 0 ? "" : `var(${charts.colour(place)})`;
  });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-follow]");
  if (button) follow(button);
});

const pause = () => new Promise((done) => setTimeout(done));

async function begin() {
  const [text, plotly] = await Promise.all([unpack(PACKED.data), PACKED.plotly && unpack(PACKED.plotly)]);
  const { data: shared, pool } = JSON.parse(text), data = restored(shared, pool);
  for (const name in data.tables) table(name, data.tables[name]);
  gallery(JSON.parse(await unpack(PACKED.previews)));
  page.dataset.readMs = Math.round(performance.now());
  if (plotly) {
    const script = document.createElement("script");
    script.textContent = plotly;
    document.head.append(script);
    for (const waiting = all("[data-chart]"); waiting.length; await pause()) {  // those that are seen go first
      const [element] = waiting.splice(Math.max(0, waiting.findIndex(isSeen)), 1);
      shown.set(element, Object.values(data.figures[element.dataset.chart])[0]);
      await redraw(element);
      page.dataset.firstMs ??= Math.round(performance.now());
    }
    all("[data-switch]").forEach((one) => axis(one, data.figures[one.dataset.switch]));
  }
  page.dataset.allMs = Math.round(performance.now());
  page.dataset.state = "drawn";
}

function axis(control, figures) {
  const element = document.getElementById(control.dataset.switch);
  const show = () => {
    shown.set(element, figures[control.querySelector(":checked").value]);
    redraw(element);
  };
  control.addEventListener("change", show);
  if (control.querySelector(":checked").value !== Object.keys(figures)[0]) show();  // as the browser remembers it
}

function table(name, rows) {
  const body = document.querySelector(`[data-table="${name}"] tbody`), heads = all(`[data-table="${name}"] th[scope=col]`);
  const find = document.querySelector(`[data-find="${name}"]`), count = document.querySelector(`[data-count="${name}"]`);
  const more = document.querySelector(`[data-all="${name}"]`), digits = document.querySelector(`[data-digits="${name}"]`);
  rows.forEach((row) => { row.words = row.html.replace(/<[^>]*>/g, " ").toLowerCase(); });
  let most = ROWS, order = rows;
  const show = () => {
    const wanted = find.value.trim().toLowerCase();
    const found = wanted ? order.filter((row) => row.words.includes(wanted)) : order;
    const seen = found.slice(0, most);
    body.innerHTML = seen.map((row) => row.html).join("");
    pressed();
    count.textContent = `${seen.length} of ${found.length} shown`;
    if (more) more.hidden = seen.length === found.length;
  };
  const sort = (column) => {
    const head = heads[column], was = head.getAttribute("aria-sort");
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const next = was === null ? first : was === "ascending" ? "descending" : "ascending";
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    const known = rows.filter((row) => row.keys[column] !== null), none = rows.filter((row) => row.keys[column] === null);
    known.sort((a, b) => sign * compare(a.keys[column], b.keys[column]));
    order = [...known, ...none];
    show();
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
  find.addEventListener("input", show);
  more?.addEventListener("click", () => { most = Infinity; show(); });
  const full = () => body.closest("table").classList.toggle("digits", digits.checked);
  digits.addEventListener("change", full);
  full();
  if (find.value) show();
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function gallery(previews) {
  const names = Object.keys(previews), picture = document.getElementById("picture");
  if (!names.length) return;
  const slider = document.getElementById("step"), at = document.getElementById("at"), size = document.getElementById("size");
  names.forEach((name) => picture.append(new Option(name, name)));
  picture.closest("label").hidden = names.length === 1;
  let steps = [];
  const choose = () => {
    const known = Object.values(previews[picture.value]).flatMap((one) => Object.keys(one).map(Number));
    steps = [...new Set(known)].sort((a, b) => a - b);
    slider.max = steps.length - 1;
    slider.value = slider.max;
    show();
  };
  const show = () => {
    const step = steps[slider.value];
    at.textContent = `${step}`;
    slider.setAttribute("aria-valuetext", `step ${step}`);
    all(".gallery figure").forEach((card) => frame(card, previews[picture.value][card.dataset.trial] ?? {}, step));
  };
  picture.addEventListener("change", choose);
  slider.addEventListener("input", show);
  const grow = () => document.querySelector(".gallery").style.setProperty("--card", `${size.value}px`);
  size.addEventListener("input", grow);
  grow();
  choose();
}

function frame(card, pictures, step) {
  const known = Object.keys(pictures).map(Number).filter((one) => one <= step).sort((a, b) => b - a);
  const image = card.querySelector("img"), said = card.querySelector(".at");
  card.classList.toggle("over", known.length > 0 && known[0] !== step);
  if (!known.length) {
    image.removeAttribute("src");
    said.textContent = "no picture yet";
    return;
  }
  image.src = pictures[known[0]];
  said.textContent = `step ${known[0]}`;
}

begin().catch((error) => {
  page.dataset.state = "failed";
  document.getElementById("warning").textContent = `The charts could not be drawn: ${error.message}. The tables below are whole.`;
});
