// The table of jobs.

import { element, fill, tick } from "./dom.js";
import { content, metrics, table } from "./data.js";
import { count, DASH, duration, moment, number, percent, shortened, signed } from "./format.js";
import { address, go, readState } from "./state.js";
import { differing, sorted, sortOf } from "./selection.js";

export const ROWS_PER_PAGE = 100;
const COUNTED_TOLERANCE = 5e-4; // as in the tables of the command line
const SHORT = new Map([
  ["arc_easy", "ARC\u2011e"],
  ["arc_challenge", "ARC\u2011c"],
  ["hellaswag", "HellaSwag"],
  ["winogrande", "WinoGrande"],
  ["openbookqa", "OBQA"],
  ["acc_norm", "acc norm"],
]);

/** Draws the jobs that `rows` names. */
export function drawJobs(parent, state, rows) {
  const columns = columnsFor(rows, state);
  const ordered = sorted(rows, state);
  const pages = Math.max(1, Math.ceil(ordered.length / ROWS_PER_PAGE));
  const page = Math.min(Math.max(1, Number(state.page) || 1), pages);
  const shown = ordered.slice((page - 1) * ROWS_PER_PAGE, page * ROWS_PER_PAGE);
  fill(
    parent,
    actions(state, ordered, columns),
    common(rows),
    rows.length ? sheet(state, columns, shown) : nothing(),
    rows.length ? turner(page, pages, ordered.length) : null,
    footnotes(rows),
  );
}

/** Columns in which these rows say something: axes that differ, metrics that were measured, time and end. */
function columnsFor(rows, state) {
  const { shown } = differing(rows);
  const method = content().columns.get("method");
  const axes = shown.includes(method) || !rows.length ? shown : [method, ...shown];
  const measured = metrics().filter((metric) => rows.some((row) => metric.values[row] !== null));
  const short = shortLabels(measured.map((metric) => metric.label));
  return [
    ...axes.filter((axis) => axis.key !== "checkout").map(axisColumn),
    ...measured.map((metric, index) => metricColumn(metric, short[index], state.published === "on")),
    ...["time", "ended"].map(fixedColumn),
  ];
}

function axisColumn(axis) {
  const text =
    axis.key === "sparsity" ? sparsityText : axis.key === "method" ? methodText : (row) => axis.values[axis.codes[row]];
  return {
    key: axis.key,
    label: axis.label,
    full: axis.label,
    text: (row) => text(row) || DASH,
    numeric: axis.key === "sparsity",
  };
}

/** What was asked, and what was counted where that differs. */
function sparsityText(row) {
  const { sparsity, achieved, dense } = table();
  const same = dense[row] || achieved[row] === null || Math.abs(achieved[row] - sparsity[row]) < COUNTED_TOLERANCE;
  return same ? percent(sparsity[row]) : `${percent(sparsity[row])} (${percent(achieved[row])})`;
}

export function methodText(row) {
  const { dirty, error } = table();
  const method = content().columns.get("method");
  return method.values[method.codes[row]] + (dirty[row] ? "†" : "") + (error[row] !== null ? "‡" : "");
}

function metricColumn(metric, short, withPublished) {
  const direction = metric.higher ? "higher is better" : "lower is better";
  const text = (row) => {
    const found = withPublished ? metric.published.get(row) : undefined;
    const value = metric.values[row];
    if (!found) return number(value);
    return `${number(value)} (${found.text}, ${value === null ? DASH : signed(value - found.value)})`;
  };
  return {
    key: metric.key,
    label: `${short}\u00a0${metric.higher ? "↑" : "↓"}`,
    full: `${metric.label}: ${metric.protocol}, ${metric.metric}, ${direction}`,
    text,
    numeric: true,
    down: metric.higher,
  };
}

/** Labels without the names of data and subsets where they tell apart without them, and with short names of tasks. */
function shortLabels(labels) {
  let short = labels;
  for (const part of [/ data \S+/, / first \d+/, / %/]) {
    const shorter = short.map((label) => label.replace(part, ""));
    if (new Set(shorter).size === labels.length) short = shorter;
  }
  return short.map((label) =>
    label
      .split(" ")
      .map((word) => SHORT.get(word) ?? word)
      .join(" "),
  );
}

function fixedColumn(key) {
  const column = content().columns.get(key);
  const text = key === "time" ? (row) => duration(column.values[row]) : (row) => moment(column.values[row]);
  return {
    key,
    label: column.label,
    full: key === "time" ? "wall time of the whole job" : "when the job ended",
    text,
    numeric: true,
    down: true,
  };
}

function sheet(state, columns, rows) {
  const picked = new Set(state.pick);
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, element("span", { class: "unseen" }, "compare")),
    element("th", { scope: "col" }, "job"),
    columns.map((column) => header(state, column)),
  );
  const body = rows.map((row) => line(columns, row, picked));
  return element(
    "div",
    { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "jobs", id: "sheet" },
    element(
      "table",
      { class: "jobs" },
      element("caption", { class: "unseen" }, "Jobs and what was measured on them"),
      element("thead", {}, head),
      element("tbody", {}, body),
    ),
  );
}

function header(state, column) {
  const { key, down } = sortOf(state);
  const now = key !== column.key ? "none" : down ? "descending" : "ascending";
  const next = now === "none" ? (column.down ? `-${column.key}` : column.key) : flipped(state.sort, column);
  const sign = now === "none" ? "" : down ? " ▼" : " ▲";
  const button = element(
    "button",
    {
      type: "button",
      class: "sort",
      id: `sort-${column.key}`,
      title: column.full,
      onclick: () => go({ sort: next, page: "" }),
    },
    column.label,
    element("span", { "aria-hidden": "true" }, sign),
  );
  return element("th", { scope: "col", "aria-sort": now, class: column.numeric ? "number" : "" }, button);
}

/** First one way, then the other, then the order of the tables again. */
function flipped(sort, column) {
  const first = column.down ? `-${column.key}` : column.key;
  if (sort !== first) return "";
  return column.down ? column.key : `-${column.key}`;
}

function line(columns, row, picked) {
  const { id, error } = table();
  const job = id[row];
  const box = element("input", {
    type: "checkbox",
    id: `pick-${job}`,
    checked: picked.has(job),
    "aria-label": `compare ${job}`,
    onchange: () => go({ pick: toggledJob(job, box.checked) }, true),
  });
  const link = element(
    "a",
    { href: address({ view: "job", job }), title: job, id: `open-${job}` },
    job.slice(job.lastIndexOf("__") + 2),
  );
  const cells = columns.map((column) => cell(column, column.text(row)));
  return element(
    "tr",
    { class: error[row] === null ? "" : "failed", title: error[row] },
    element("td", {}, box),
    element("th", { scope: "row" }, link),
    cells,
  );
}

function cell(column, text) {
  const short = shortened(text);
  return element("td", { class: column.numeric ? "number" : "", title: short === text ? null : text }, short);
}

function toggledJob(job, on) {
  const others = readState().pick.filter((other) => other !== job);
  return on ? [...others, job] : others;
}

/** Above the table: how many, compare, published numbers, and the table as a file. */
function actions(state, rows, columns) {
  const chosen = state.pick.length;
  const compare = chosen
    ? element(
        "a",
        { class: "button", id: "compare", href: address({ view: "compare" }) },
        `Compare ${count(chosen, "job")}`,
      )
    : element("span", { class: "quiet" }, "tick jobs to compare them");
  const clear = chosen
    ? element("button", { type: "button", id: "unpick", onclick: () => go({ pick: [] }, true) }, "untick all")
    : null;
  const published = metrics().some((metric) => metric.published.size)
    ? tick("published", "published numbers", state.published === "on", (on) => go({ published: on ? "on" : "" }))
    : null;
  const save = element("button", { type: "button", id: "csv", onclick: () => saveCsv(rows, columns) }, "Save as CSV");
  return element("div", { class: "actions" }, compare, clear, element("span", { class: "grow" }), published, save);
}

function common(rows) {
  const { common: same } = differing(rows);
  const said = same.filter(([axis]) => rows.length > 1 && axis.key !== "method" && axis.key !== "checkout");
  if (!said.length) return null;
  const parts = said
    .flatMap(([axis, value]) => [`${axis.label} `, element("b", { title: value }, shortened(value)), ", "])
    .slice(0, -1);
  return element("p", { class: "common", id: "common" }, "common: ", parts);
}

function turner(page, pages, amount) {
  if (pages === 1) return null;
  const to = (target) => () => {
    go({ page: target === 1 ? "" : String(target) });
  };
  const first = (page - 1) * ROWS_PER_PAGE + 1;
  const last = Math.min(amount, page * ROWS_PER_PAGE);
  return element(
    "nav",
    { class: "turner", "aria-label": "pages of the table" },
    element("button", { type: "button", id: "previous", disabled: page === 1, onclick: to(page - 1) }, "← previous"),
    element(
      "span",
      {},
      `jobs ${first.toLocaleString("en")}–${last.toLocaleString("en")} of ${amount.toLocaleString("en")}`,
    ),
    element("button", { type: "button", id: "next", disabled: page === pages, onclick: to(page + 1) }, "next →"),
  );
}

function footnotes() {
  const { notes } = table();
  return notes.length
    ? element(
        "ul",
        { class: "notes" },
        notes.map((note) => element("li", {}, note)),
      )
    : null;
}

function nothing() {
  return element(
    "p",
    { class: "empty" },
    "No job passes these filters. ",
    element(
      "button",
      { type: "button", id: "reset", onclick: () => go({ filters: new Map(), q: "", page: "" }) },
      "Show all",
    ),
  );
}

/** Full precision, empty where there is no number; a text that a spreadsheet would run gets an apostrophe. */
function saveCsv(rows, columns) {
  const exact = (column, row) => {
    const source = content().columns.get(column.key);
    return source.codes ? source.values[source.codes[row]] : source.values[row];
  };
  const field = (value) => {
    const text = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const head = ["job", ...columns.map((column) => column.key)];
  const lines = rows.map((row) => [table().id[row], ...columns.map((column) => exact(column, row))]);
  const text = [head, ...lines].map((fields) => fields.map(field).join(",")).join("\n");
  const link = element("a", {
    href: URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" })),
    download: "prunebench.csv",
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
