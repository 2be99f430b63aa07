// The table of jobs: numbers first, then what else tells the jobs apart.

import { element, fill, sheet } from "./dom.js";
import { columnOf, metrics, table } from "./data.js";
import { count, DASH, duration, moment, number, percent, shortened } from "./format.js";
import { address, go, readState } from "./state.js";
import { differing, sorted, sortOf } from "./selection.js";

export const ROWS_PER_PAGE = 100;
const COUNTED_TOLERANCE = 5e-4; // as in the tables of the command line
const LEADING = ["model", "method", "pattern", "sparsity"];

/** Draws the jobs that `rows` names. */
export function drawJobs(parent, state, rows) {
  const columns = columnsFor(rows);
  const ordered = sorted(rows, state);
  const [shown, turn] = paged(state, ordered, ROWS_PER_PAGE, "jobs");
  const notes = table().notes.map((note) => element("li", {}, note));
  fill(
    parent,
    actions(state, ordered, columns),
    common(rows),
    rows.length ? [jobSheet(state, columns, shown), turn] : nothing(),
    notes.length ? element("ul", { class: "notes" }, notes) : null,
  );
}

/** Columns in which these rows say something. */
function columnsFor(rows) {
  const { shown } = differing(rows);
  const method = columnOf("method");
  const axes = shown.includes(method) ? shown : [method, ...shown];
  const leading = LEADING.map((key) => axes.find((axis) => axis.key === key)).filter(Boolean);
  const rest = axes.filter((axis) => !LEADING.includes(axis.key) && axis.key !== "checkout");
  const measured = metrics().filter((metric) => rows.some((row) => metric.values[row] !== null));
  const others = [...rest.map(axisColumn), ...["time", "ended"].map(fixedColumn)];
  return [...leading.map(axisColumn), ...measured.map(metricColumn), ...others];
}

function axisColumn(axis) {
  const { key, label } = axis;
  return { key, label, says: label, text: (row) => cellText(key, row), numeric: key === "sparsity" };
}

/** What the table says of a job in the column of an axis. */
export function cellText(key, row) {
  const { dirty, error, sparsity, achieved, dense } = table();
  const column = columnOf(key);
  const text = column.values[column.codes[row]];
  if (key === "method") return text + (dirty[row] ? "†" : "") + (error[row] !== null ? "‡" : "");
  if (key !== "sparsity") return text || DASH;
  const same = dense[row] || achieved[row] === null || Math.abs(achieved[row] - sparsity[row]) < COUNTED_TOLERANCE;
  return same ? percent(sparsity[row]) : `${percent(sparsity[row])} (${percent(achieved[row])})`;
}

function metricColumn(metric) {
  return {
    key: metric.key,
    label: `${metric.short} ${metric.higher ? "↑" : "↓"}`,
    says: metric.says,
    text: (row) => metric.published[row]?.text ?? number(metric.values[row]),
    title: (row) => metric.published[row]?.source,
    numeric: true,
    down: metric.higher,
  };
}

function fixedColumn(key) {
  const { label, says, values } = columnOf(key);
  const written = key === "time" ? duration : moment;
  return { key, label, says, text: (row) => written(values[row]), numeric: true, down: true };
}

function jobSheet(state, columns, rows) {
  const picked = new Set(state.pick);
  const compare = element("th", { scope: "col" }, element("span", { class: "unseen" }, "compare"));
  const head = [compare, columns.map((column) => header(state, column))];
  const lines = rows.map((row) => jobLine(columns, row, picked));
  return sheet("Jobs and what was measured on them", head, lines, { class: "scroll tall jobs", id: "sheet" });
}

/** A click sorts one way, then the other, then as the tables do again. */
function header(state, column) {
  const { key, down } = sortOf(state);
  const now = key !== column.key ? "none" : down ? "descending" : "ascending";
  const orders = column.down ? [`-${column.key}`, column.key] : [column.key, `-${column.key}`];
  const next = orders[orders.indexOf(state.sort) + 1] ?? "";
  const onclick = () => go({ sort: next, page: "" });
  const sign = element("span", { "aria-hidden": "true" }, { none: "", descending: " ▼", ascending: " ▲" }[now]);
  const named = { type: "button", class: "sort", id: `sort-${column.key}`, title: column.says, onclick };
  const button = element("button", named, column.label, sign);
  return element("th", { scope: "col", "aria-sort": now, class: column.numeric ? "number" : "" }, button);
}

function jobLine(columns, row, picked) {
  const { id, error } = table();
  const job = id[row];
  const onchange = () => {
    const others = readState().pick.filter((other) => other !== job);
    go({ pick: box.checked ? [...others, job] : others }, true);
  };
  const named = { type: "checkbox", id: `pick-${job}`, "aria-label": `compare ${job}` };
  const box = element("input", { ...named, checked: picked.has(job), onchange });
  const cells = columns.map((column) => cell(column, row, job));
  const failed = { class: error[row] === null ? "" : "failed", title: error[row] };
  return element("tr", failed, element("td", {}, box), cells);
}

function cell(column, row, job) {
  const text = column.text(row);
  const short = shortened(text);
  if (column.key === "method") {
    const link = element("a", { href: address({ view: "job", job }), title: job, id: `open-${job}` }, short);
    return element("th", { scope: "row" }, link);
  }
  const title = column.title?.(row) ?? (short === text ? null : text);
  return element("td", { class: column.numeric ? "number" : "", title }, short);
}

/** Above the table: compare, and the table as a file. */
function actions(state, rows, columns) {
  const chosen = state.pick.length;
  const href = address({ view: "compare" });
  const untick = { type: "button", id: "unpick", onclick: () => go({ pick: [] }, true) };
  return element(
    "div",
    { class: "actions" },
    chosen
      ? element("a", { class: "button", id: "compare", href }, `Compare ${count(chosen, "job")}`)
      : element("span", { class: "quiet" }, "tick jobs to compare them"),
    chosen ? element("button", untick, "untick all") : null,
    element("span", { class: "grow" }),
    element("button", { type: "button", id: "csv", onclick: () => saveCsv(rows, columns) }, "Save as CSV"),
  );
}

function common(rows) {
  const said = differing(rows).common.filter(([axis]) => axis.key !== "method" && axis.key !== "checkout");
  if (rows.length < 2 || !said.length) return null;
  const bold = (text) => element("b", { title: text }, shortened(text));
  const parts = said.flatMap(([axis, text]) => [`${axis.label} `, bold(text), ", "]);
  return element("details", { class: "common", id: "common" }, element("summary", { id: "same" }, parts.slice(0, -1)));
}

/** The part of a long list that the state's page names, and what turns the page. */
export function paged(state, items, size, what) {
  const pages = Math.max(1, Math.ceil(items.length / size));
  const page = Math.min(Math.max(1, Number(state.page) || 1), pages);
  return [items.slice((page - 1) * size, page * size), turner(page, pages, items.length, size, what)];
}

function turner(page, pages, amount, size, what) {
  if (pages === 1) return null;
  const to = (target) => () => go({ page: target === 1 ? "" : String(target) });
  const button = (id, text, target, disabled) =>
    element("button", { type: "button", id, disabled, onclick: to(target) }, text);
  const [first, last] = [(page - 1) * size + 1, Math.min(amount, page * size)];
  const said = `${what} ${first.toLocaleString("en")}–${last.toLocaleString("en")} of ${amount.toLocaleString("en")}`;
  return element(
    "nav",
    { class: "turner", "aria-label": "pages of the table" },
    button("previous", "← previous", page - 1, page === 1),
    element("span", {}, said),
    button("next", "next →", page + 1, page === pages),
  );
}

function nothing() {
  const onclick = () => go({ filters: new Map(), q: "", page: "" });
  const button = element("button", { type: "button", id: "reset", onclick }, "Show all");
  return element("p", { class: "empty" }, "No job passes these filters. ", button);
}

/** Full precision, empty where there is no number; a text that a spreadsheet would run gets an apostrophe. */
function saveCsv(rows, columns) {
  const exact = (column, row) => {
    const source = columnOf(column.key);
    return source.codes ? source.values[source.codes[row]] : source.values[row];
  };
  const field = (value) => {
    const text = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const head = ["job", ...columns.map((column) => column.key)];
  const lines = rows.map((row) => [table().id[row], ...columns.map((column) => exact(column, row))]);
  const text = [head, ...lines].map((fields) => fields.map(field).join(",")).join("\n");
  const href = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" }));
  element("a", { href, download: "prunebench.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}
