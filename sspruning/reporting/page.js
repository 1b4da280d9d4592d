"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const find = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en-US");
const percent = (part, whole) => {
  const value = whole ? (100 * part) / whole : 0;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value > 99.9 && value < 100) return "> 99.9 %";
  return `${Number(value.toFixed(1))} %`;
};

const thumbs = all(".t").map((node) => ({ node, rank: Number(node.dataset.r), state: node.querySelector(".state") }));
const cards = ["scores", "sizes"].map((name) => ({ name, svg: find(name) })).filter((one) => one.svg);
const curves = all(".curve svg").map((svg) => ({ line: svg.querySelector(".line"), dot: svg.querySelector(".dot") }));
const marks = all("#map [data-c]").map((node) => ({ node, title: node.querySelector("title") }));
let stop = data.own;

function prefix(table) {
  return table.map((row) => {
    let sum = 0;
    return row.map((value) => (sum += value));
  });
}

const sums = {};
for (const name of Object.keys(data.tables ?? {})) sums[name] = prefix(data.tables[name]);

function setText(selector, key, words) {
  for (const node of all(`[${selector}="${key}"]`)) node.textContent = words;
}

function showCounts(kept) {
  const dropped = data.n - kept;
  const policy = data.policy + data.counts[data.own] - kept;
  const values = { kept, dropped, policy };
  for (const [key, value] of Object.entries(values)) {
    setText("data-v", key, number(value));
    setText("data-p", key, percent(value, data.samples));
    setText("data-q", key, percent(value, data.n));
    for (const node of all(`[data-w="${key}"]`)) node.style.width = `${data.samples ? (100 * value) / data.samples : 0}%`;
  }
  for (const [key, series] of Object.entries(data.curves)) setText("data-c", key, series[stop]);
}

function showBars() {
  for (const { name, svg } of cards) {
    const unit = Number(svg.dataset.unit);
    const base = svg.viewBox.baseVal.height;
    all(".kept", svg).forEach((bar, index) => {
      const height = sums[name][index][stop] * unit;
      bar.setAttribute("y", base - height);
      bar.setAttribute("height", height);
    });
  }
  for (const { line, dot } of curves) {
    const point = line.points.getItem(stop);
    dot.setAttribute("d", `M${point.x} ${point.y}h0`);
  }
  const [edge, share, side] = data.edges[stop];
  const line = find("cut-line");
  line.hidden = edge < 0;
  line.style.left = `${(100 * edge) / (data.borders.length - 1)}%`;
  line.classList.toggle("flip", edge > 0.9 * data.borders.length);
  line.firstElementChild.textContent = data.borders[Math.max(edge, 0)];
  find("cut-say").hidden = edge < 0;
  find("cut-share").textContent = share;
  find("cut-side").textContent = side;
}

function showClusters() {
  marks.forEach(({ node, title }, index) => {
    const row = sums.map[index];
    const members = row.at(-1);
    const share = members ? row[stop] / members : 0;
    node.setAttribute("class", `c l${data.levels.filter((bound) => share > bound).length}`);
    title.textContent = title.textContent.replace(/images, .*/, `images, ${Math.round(100 * share)} % kept`);
  });
  (sums.rows ?? []).forEach((row, index) => {
    setText("data-row", index, number(row[stop]));
    for (const node of all(`[data-row-w="${index}"]`)) node.style.width = `${(100 * row[stop]) / row.at(-1)}%`;
  });
}

function showThumbs(kept) {
  for (const { node, rank, state } of thumbs) {
    const stays = rank < kept;
    node.classList.toggle("d", !stays);
    state.textContent = stays ? "kept" : "dropped";
  }
}

function show() {
  const kept = data.counts[stop];
  showCounts(kept);
  showBars();
  showClusters();
  showThumbs(kept);
  find("fraction").textContent = data.labels[stop];
  find("keep").setAttribute("aria-valuetext", `${data.labels[stop]}: ${number(kept)} kept, ${number(data.n - kept)} dropped`);
  find("back").disabled = stop === data.own;
  document.body.classList.toggle("moved", stop !== data.own);
  setText("data-fraction", "", data.fractions[stop]);
  if (find("other")) find("other").hidden = stop === data.own;
}

function choose(value) {
  stop = value;
  find("keep").value = value;
  requestAnimationFrame(show);
}

if (data.movable) {
  const slider = find("keep");
  slider.disabled = false;
  slider.value = data.own;
  slider.addEventListener("input", () => choose(Number(slider.value)));
  find("back").addEventListener("click", () => {
    choose(data.own);
    slider.focus();
  });
}

function open(thumb) {
  const facts = { ...thumb.dataset, rank: `${number(Number(thumb.dataset.r) + 1)} of ${number(data.n)}` };
  const source = thumb.querySelector("img");
  const image = find("detail-image");
  image.hidden = !source;
  if (source) image.src = source.src;
  image.className = source ? source.className : "";
  find("detail-key").textContent = facts.key;
  find("detail-state").textContent = thumb.querySelector(".state").textContent;
  find("detail-state").className = thumb.classList.contains("d") ? "dropped" : "kept";
  find("detail-caption").textContent = facts.caption ?? "";
  find("detail-note").textContent = facts.note ?? "";
  for (const node of all("#detail [data-f]")) node.textContent = facts[node.dataset.f] ?? "";
  find("detail").showModal();
}

for (const list of all(".g")) {
  const buttons = all(".t", list);
  buttons.forEach((button, index) => {
    button.tabIndex = index ? -1 : 0;
    button.addEventListener("click", () => open(button));
  });
  list.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || next === undefined || !buttons[next]) return;
    event.preventDefault();
    buttons[at].tabIndex = -1;
    buttons[next].tabIndex = 0;
    buttons[next].focus();
  });
}
find("detail").addEventListener("click", (event) => {
  if (event.target === find("detail")) find("detail").close();
});
