// Draws the charts that stand in the page as JSON, and switches light and dark.
"use strict";

const root = document.documentElement;

function remembered() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // where the browser keeps nothing, its own preference holds
  }
}

function isDark() {
  const chosen = root.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

if (remembered()) root.dataset.theme = remembered();

function themeButton() {
  const button = document.querySelector("[data-theme-button]");
  const tell = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Switch to light" : "Switch to dark");
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // It holds for this page alone.
    }
    tell();
  });
  tell();
}

function showWhereWeAre() {
  // On a small screen the menu is one line: what is chosen of it comes into sight.
  const chosen = document.querySelector("nav a[aria-current]");
  if (!chosen) return;
  const line = chosen.closest("ul");
  line.scrollLeft = chosen.offsetLeft - line.offsetLeft - (line.clientWidth - chosen.offsetWidth) / 2;
}

async function drawCharts() {
  for (const script of document.querySelectorAll("script[data-of]")) {
    const place = document.getElementById(script.dataset.of);
    await Bokeh.embed.embed_item(JSON.parse(script.textContent), place.id);
    place.dataset.drawn = "yes";
  }
  moveThroughOutages();
  root.dataset.ready = "yes";
}

function drawn(name) {
  // A chart's model by the name that its page gave it.
  for (const each of Bokeh.documents) {
    const found = each.get_model_by_name(name);
    if (found) return found;
  }
  return null;
}

function clockOf(zone) {
  // The lake's clock: a moment [s] as people read it, and as charts have it [ms].
  const parts = new Intl.DateTimeFormat("en-CA", {
    timeZone: zone, hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit",
    hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
  const read = (seconds) =>
    Object.fromEntries(parts.formatToParts(seconds * 1000).map((p) => [p.type, p.value]));
  return {
    told(seconds) {
      const at = read(seconds);
      return `${at.year}-${at.month}-${at.day} ${at.hour}:${at.minute}`;
    },
    drawn(seconds) {
      const at = read(seconds);
      return Date.UTC(at.year, at.month - 1, at.day, at.hour, at.minute, at.second);
    },
  };
}

function moveThroughOutages() {
  const script = document.getElementById("supply");
  if (!script) return;
  const supply = JSON.parse(script.textContent);
  const slider = document.getElementById("moment");
  const told = document.getElementById("moment-told");
  const clock = clockOf(supply.zone);
  const [meters, nodes, outMeters, outNodes, mark] = [
    "meters", "nodes", "out-meters", "out-nodes", "moment",
  ].map(drawn);
  const changes = [...new Set(supply.spans.flatMap(([start, end]) => [start, end]))]
    .filter((at) => at < supply.length)
    .sort((a, b) => a - b);
  const buttons = [...document.querySelectorAll("[data-change]")];
  const number = new Intl.NumberFormat("en");
  let at = supply.at;

  const places = (source, rows) => ({
    x: rows.map((row) => source.data.x[row]),
    y: rows.map((row) => source.data.y[row]),
  });

  function show() {
    const out = { meters: new Set(), nodes: new Set() };
    let elsewhere = 0;
    for (const [start, end, ofMeters, ofNodes, unplaced] of supply.spans) {
      if (start > at || end <= at) continue;
      ofMeters.forEach((row) => out.meters.add(row));
      ofNodes.forEach((row) => out.nodes.add(row));
      elsewhere += unplaced;
    }
    outMeters.data = places(meters, [...out.meters]);
    outNodes.data = places(nodes, [...out.nodes]);
    const seconds = supply.start + at;
    mark.location = clock.drawn(seconds);
    mark.visible = true;
    const count = number.format(out.meters.size + elsewhere);
    const said =
      `${clock.told(seconds)} · ${count} of ${number.format(supply.meters)} meters without supply` +
      (out.nodes.size ? `, ${out.nodes.size} of the grid's nodes out` : "");
    told.value = said;
    slider.value = at;
    slider.setAttribute("aria-valuetext", said);
    buttons[0].disabled = !changes.some((change) => change < at);
    buttons[1].disabled = !changes.some((change) => change > at);
  }

  function remember() {
    const url = new URL(location);
    url.searchParams.set("at", new Date((supply.start + at) * 1000).toISOString().slice(0, 19) + "Z");
    history.replaceState(null, "", url);
  }

  slider.addEventListener("input", () => {
    at = Number(slider.value);
    show();
  });
  slider.addEventListener("change", remember);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const found =
        Number(button.dataset.change) < 0
          ? changes.findLast((change) => change < at)
          : changes.find((change) => change > at);
      if (found === undefined) return;
      at = found;
      show();
      remember();
    });
  }
  for (const link of document.querySelectorAll("a[data-at]")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      at = Math.min(Math.max(Number(link.dataset.at) - supply.start, 0), supply.length);
      show();
      remember();
      slider.focus();
      document.querySelector(".slider").scrollIntoView({ block: "start" });
    });
  }
  meters.selected.properties.indices.change.connect(() => {
    const [row] = meters.selected.indices;
    if (row === undefined) return;
    location.href = `/console/meter?meter_id=${encodeURIComponent(meters.data.meter_id[row])}`;
  });
  slider.disabled = false;
  show();
}

const SHOWN = 500; // rows of an answer in the page; a download has all of them
const LONGEST_URL = 8000; // letters of a query that still stands in the address
const MOST_NAMES = 60; // of an axis
const MOMENT = /^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?Z)?$/;

function askSql() {
  const form = document.getElementById("sql-form");
  if (!form) return;
  const [editor, stop, limit, told, problem, grid, chart, choice] = [
    "sql", "sql-stop", "sql-rows", "sql-told", "sql-problem", "sql-grid", "sql-chart", "sql-draw",
  ].map((id) => document.getElementById(id));
  const units = JSON.parse(document.getElementById("sql-units").textContent);
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });
  const embedded = new Set();
  let running = null;
  let drawing = 0; // the chart that was asked for last
  let answer = null;

  const fieldsOf = (rows) => (rows.length ? Object.keys(rows[0]) : []);
  const isNumbers = (rows, name) =>
    rows.some((row) => row[name] !== null) &&
    rows.every((row) => row[name] === null || typeof row[name] === "number");
  const labelOf = (name) => (units[name] ? `${name} [${units[name]}]` : name);

  function inWords(value) {
    if (value === null) return "–";
    if (typeof value === "object") return JSON.stringify(value);
    // Without the last digits, which binary fractions make: 0.30000000000000004.
    return String(typeof value === "number" ? Number(value.toPrecision(12)) : value);
  }

  function exactly(text) {
    // Numbers that this language would round stay as they are written.
    return JSON.parse(text, (_, value, context) =>
      typeof value === "number" && context?.source && Number.isInteger(value) &&
      !Number.isSafeInteger(value) ? context.source : value);
  }

  async function ask(accept, rows) {
    running?.abort();
    const mine = (running = new AbortController());
    stop.disabled = false;
    problem.replaceChildren();
    told.textContent = "Asking …";
    const began = performance.now();
    try {
      const response = await fetch("/sql", {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: accept },
        body: JSON.stringify({ sql: editor.value, ...(rows ? { rows } : {}) }),
        signal: mine.signal,
      });
      const body = response.ok ? await response.blob() : await response.json();
      if (!response.ok) {
        complain(`${response.status} ${body.title}`, body.detail, body.hint);
        return null;
      }
      const isCut = response.headers.get("Meterlake-Truncated") === "true";
      return { body, isCut, seconds: (performance.now() - began) / 1000 };
    } catch (error) {
      if (mine !== running) return null; // another query took its place
      if (error.name === "AbortError") told.textContent = "Stopped.";
      else complain("No answer", String(error.message || error));
      return null;
    } finally {
      if (mine === running) {
        running = null;
        stop.disabled = true;
      }
    }
  }

  function complain(title, detail, hint) {
    told.textContent = "";
    const box = document.createElement("div");
    box.className = "problem";
    for (const text of [title, detail, hint]) {
      if (!text) continue;
      const line = document.createElement("p");
      line.textContent = text;
      box.append(line);
    }
    problem.replaceChildren(box);
  }

  function remember() {
    const url = new URL(location);
    url.searchParams.set("sql", editor.value);
    if (url.search.length > LONGEST_URL) url.searchParams.delete("sql");
    if (url.search !== location.search) history.pushState(null, "", url);
  }

  async function run() {
    if (!editor.value.trim()) {
      complain("Nothing to ask", "Write a SELECT, or choose an example.");
      return;
    }
    remember();
    grid.hidden = chart.hidden = true;
    const found = await ask("application/json", Number(limit.value));
    if (!found) return;
    answer = exactly(await found.body.text());
    const count = number.format(answer.length);
    const plural = answer.length === 1 ? "row" : "rows";
    const cut = found.isCut
      ? `The first ${count} ${plural}: the query has more`
      : `${count} ${plural}`;
    const shown = answer.length > SHOWN ? `; the first ${SHOWN} are shown here` : "";
    told.textContent = `${cut}${shown}. ${found.seconds.toFixed(2)} s`;
    if (!answer.length) return;
    fill(answer);
    offer(answer);
  }

  function fill(rows) {
    const names = fieldsOf(rows);
    const isNumber = Object.fromEntries(names.map((name) => [name, isNumbers(rows, name)]));
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const name of names) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = labelOf(name);
      if (isNumber[name]) cell.className = "number";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const row of rows.slice(0, SHOWN)) {
      const line = body.insertRow();
      for (const name of names) {
        const cell = line.insertCell();
        const value = row[name];
        cell.textContent = inWords(value);
        if (isNumber[name]) cell.className = "number";
      }
    }
    grid.replaceChildren(table);
    grid.scrollTop = 0;
    grid.hidden = false;
  }

  function offer(rows) {
    // A chart, where the first column is time or text and all others are numbers.
    const [x, ...ys] = fieldsOf(rows);
    const isTime = rows.every((row) => typeof row[x] === "string" && MOMENT.test(row[x]));
    const isText = rows.every((row) => row[x] === null || typeof row[x] === "string");
    const fits = rows.length > 1 && ys.length && ys.every((name) => isNumbers(rows, name));
    if (!globalThis.Bokeh || !fits || !(isTime || isText)) return;
    const options = ys.map((name) => new Option(labelOf(name), name));
    if (isTime && ys.length > 1) options.unshift(new Option("all of them", ""));
    choice.replaceChildren(...options);
    chart.hidden = false;
    draw();
  }

  async function draw() {
    const mine = ++drawing;
    const [x, ...ys] = fieldsOf(answer);
    const isTime = answer.every((row) => typeof row[x] === "string" && MOMENT.test(row[x]));
    const kind = isTime ? "time" : "names";
    for (const each of ["time", "names"]) {
      document.getElementById(`draw-${each}`).hidden = each !== kind;
    }
    if (!embedded.has(kind)) {
      embedded.add(kind);
      const item = JSON.parse(document.getElementById(`drawing-${kind}`).textContent);
      await Bokeh.embed.embed_item(item, `draw-${kind}`);
    }
    if (mine !== drawing) return;
    const wanted = choice.value ? [choice.value] : ys;
    if (isTime) drawTime(x, wanted);
    else drawNames(x, wanted[0]);
  }

  function drawTime(x, names) {
    const rows = answer
      .map((row) => [Date.parse(row[x]), row])
      .sort(([one], [other]) => one - other);
    const legend = drawn("time-legend");
    const items = legend.items;
    items.forEach((item, number) => {
      const name = names[number];
      const there = name !== undefined;
      drawn(`time-line-${number}`).visible = there;
      item.visible = there;
      if (there) item.label = { value: labelOf(name) };
      drawn(`time-${number}`).data = {
        x: there ? rows.map(([at]) => at) : [],
        y: there ? rows.map(([, row]) => row[name] ?? NaN) : [],
      };
    });
    const known = [...new Set(names.map((each) => units[each]).filter(Boolean))];
    drawn("time-axis").axis_label = names.length === 1 ? labelOf(names[0]) : known.join(", ") || "value";
  }

  function drawNames(x, name) {
    const rows = answer.slice(0, MOST_NAMES);
    // Two rows may have the same text; an axis has each name once.
    const seen = new Map();
    const labels = rows.map((row) => {
      const text = row[x] === null ? "–" : row[x].slice(0, 30) || "''";
      const times = (seen.get(text) ?? 0) + 1;
      seen.set(text, times);
      return times === 1 ? text : `${text} (${times})`;
    });
    const isTight = labels.join("").length > 60;
    drawn("names-labels").major_label_orientation = isTight ? 0.9 : "horizontal";
    drawn("names-range").factors = labels;
    drawn("names").data = { x: labels, y: rows.map((row) => row[name] ?? NaN) };
    drawn("names-axis").axis_label = labelOf(name);
    if (answer.length > MOST_NAMES) told.textContent += ` (the chart has the first ${MOST_NAMES})`;
  }

  async function download(kind) {
    const found = await ask(kind, null);
    if (!found) return;
    const most = number.format(Number(form.dataset.most));
    told.textContent = found.isCut
      ? `Downloaded the first ${most} rows: the query has more`
      : "Downloaded all rows.";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(found.body);
    link.download = `answer.${{ "text/csv": "csv", "application/json": "json" }[kind] ?? "arrows"}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  editor.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      run();
    }
  });
  stop.addEventListener("click", () => running?.abort());
  choice.addEventListener("change", draw);
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => download(button.dataset.download));
  }
  for (const link of document.querySelectorAll("a[data-example]")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      editor.value = new URL(link.href).searchParams.get("sql");
      run();
    });
  }
  addEventListener("popstate", () => {
    editor.value = new URL(location).searchParams.get("sql") ?? "";
  });
  if ("runs" in form.dataset) run();
}

document.addEventListener("DOMContentLoaded", () => {
  themeButton();
  showWhereWeAre();
  askSql();
  if (globalThis.Bokeh) drawCharts();
  else root.dataset.ready = "yes";
});
