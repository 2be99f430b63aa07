// Two or more jobs side by side; the first one is what the others are compared with.

import { element, fill, folded, grid, section, tick } from "./dom.js";
import { columnOf, documentOf, metrics, rowOf, table, unpacked } from "./data.js";
import { count, DASH, duration, number, signed } from "./format.js";
import { address, go, readState } from "./state.js";
import { cellText } from "./jobs.js";

/** Draws the comparison of the picked jobs. */
export async function drawCompare(parent, state) {
  const rows = state.pick.map(rowOf).filter((row) => row >= 0);
  const absent = state.pick.filter((job) => rowOf(job) < 0);
  const missing = absent.length ? element("p", { class: "warning" }, `Not in this page: ${absent.join(", ")}`) : null;
  if (rows.length < 2) {
    const hint = "Tick two or more jobs in the table to compare them. ";
    const link = element("a", { href: address({ view: "jobs" }) }, "Go to the table");
    fill(parent, missing, element("p", { class: "empty" }, hint, link));
    return;
  }
  const documents = await Promise.all(rows.map(documentOf));
  const questions = await Promise.all(rows.slice(1).map((row) => flipped(rows[0], row)));
  if (readState().pick.join() !== state.pick.join() || readState().view !== "compare") return; // the reader went on
  fill(
    parent,
    element("h2", {}, `${rows.length} jobs compared`),
    missing,
    picked(rows),
    section("Flipped questions", questions),
    numbersOf(rows),
    fields(state, rows, documents),
  );
}

/** A short name for a job among these. */
function nameOf(row) {
  const parts = ["method", "pattern", "sparsity"].map((key) => cellText(key, row));
  return [...parts, table().id[row].slice(-8)].filter((part) => part && part !== DASH).join(" ");
}

function heads(rows) {
  return rows.map((row, index) => (index === 0 ? `${nameOf(row)} (baseline)` : nameOf(row)));
}

function picked(rows) {
  const others = (row) => readState().pick.filter((job) => job !== table().id[row]);
  const button = (id, text, label, pick) =>
    element("button", { type: "button", id, "aria-label": label, onclick: () => go({ pick }) }, text);
  return element(
    "ol",
    { class: "picked" },
    rows.map((row, index) => {
      const job = table().id[row];
      return element(
        "li",
        {},
        element("a", { href: address({ view: "job", job }) }, job),
        index
          ? button(`first-${job}`, "make baseline", `make ${job} the baseline`, [job, ...others(row)])
          : element("span", { class: "quiet" }, " baseline"),
        button(`drop-${job}`, "✕", `leave out ${job}`, others(row)),
      );
    }),
  );
}

/** Fields of the records in which the jobs differ, or all of them. */
function fields(state, rows, documents) {
  const texts = documents.map((job) => new Map([...job.job, ...job.provenance]));
  const names = [...new Set(texts.flatMap((found) => [...found.keys()]))];
  const differ = names.filter((name) => new Set(texts.map((found) => found.get(name))).size > 1);
  const shown = state.fields === "all" ? names : differ;
  const lines = shown.map((name) => [name, ...texts.map((found) => found.get(name) ?? DASH)]);
  const same = `also the ${count(names.length - differ.length, "field")} that they share`;
  return section(
    "Fields",
    tick("all-fields", same, state.fields === "all", (on) => go({ fields: on ? "all" : "" })),
    lines.length ? grid("Fields", ["field", ...heads(rows)], lines) : element("p", {}, "The jobs differ in no field."),
  );
}

/** Metrics, and their differences to the first job. */
function numbersOf(rows) {
  const cell = (metric, row, index) => {
    const [value, base] = [metric.values[row], metric.values[rows[0]]];
    if (index === 0 || value === null || base === null) return number(value);
    const better = value === base ? "" : value > base === metric.higher ? "better" : "worse";
    const change = element("span", { class: `change ${better}` }, signed(value - base));
    return element("span", {}, `${number(value)} `, change);
  };
  const lines = metrics()
    .filter((metric) => rows.some((row) => metric.values[row] !== null))
    .map((metric) => [
      element("span", { title: metric.says }, `${metric.label} ${metric.higher ? "↑" : "↓"}`),
      ...rows.map((row, index) => cell(metric, row, index)),
    ]);
  const time = ["wall time", ...rows.map((row) => duration(columnOf("time").values[row]))];
  return section("Results", grid("Results", ["metric", ...heads(rows)], [...lines, time]));
}

/** What Python found of two jobs' answers: accuracies with intervals and p, margins, and the questions that flipped. */
async function flipped(base, row) {
  const [a, b] = [Math.min(base, row), Math.max(base, row)];
  const found = await unpacked(`compared-${a}-${b}`);
  const title = element("h4", {}, `A: ${nameOf(a)}, B: ${nameOf(b)}`);
  if (found === null)
    return [
      title,
      element("p", {}, "This page does not compare their answers. If they were kept, this does:"),
      element("pre", {}, `prunebench compare ${table().id[a]} ${table().id[b]}`),
    ];
  if (typeof found === "string") return [title, element("p", {}, found)];
  const [first, ...rest] = found;
  return [title, drawn(first), rest.map((one, place) => folded(`flips-${a}-${b}-${place}`, one.title, drawn(one)))];
}

function drawn({ title, headers, rows, notes }) {
  return [grid(title, headers, rows), notes.map((note) => element("p", { class: "quiet" }, note))];
}
