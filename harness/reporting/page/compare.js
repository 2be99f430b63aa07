// Two or more jobs side by side; the first one is what the others are compared with.

import { element, fill, grid, tick } from "./dom.js";
import { answersOf, axisText, content, metrics, recordOf, rowOf, table } from "./data.js";
import { flipsBetween } from "./flips.js";
import { count, DASH, duration, inline, number, percent, signed } from "./format.js";
import { address, go, readState } from "./state.js";
import { methodText } from "./jobs.js";

const FLIPS_SHOWN = 100;
const NOT_COMPARED = new Set([
  "results",
  "layers",
  "layer_columns",
  "job_id",
  "questions",
  "schema_version",
  "timings_s",
  "peak_memory_bytes",
]);

/** Draws the comparison of the picked jobs. */
export async function drawCompare(parent, state) {
  const rows = state.pick.map(rowOf).filter((row) => row >= 0);
  const absent = state.pick.filter((job) => rowOf(job) < 0);
  if (rows.length < 2) {
    fill(
      parent,
      missing(absent),
      element(
        "p",
        { class: "empty" },
        "Tick two or more jobs in the table to compare them. ",
        element("a", { href: address({ view: "" }) }, "Go to the table"),
      ),
    );
    return;
  }
  const records = await Promise.all(rows.map(recordOf));
  const answers = await Promise.all(rows.map(answersOf));
  const parts = [
    element("h2", {}, `${rows.length} jobs compared`),
    missing(absent),
    picked(rows),
    fields(state, rows, records),
    numbersOf(rows),
    await flips(rows, answers),
  ];
  if (readState().pick.join() === state.pick.join() && readState().view === "compare") fill(parent, parts);
}

function missing(absent) {
  return absent.length ? element("p", { class: "warning" }, `Not in this page: ${absent.join(", ")}`) : null;
}

/** A short name for a job among these. */
function nameOf(row) {
  const pattern = axisText(content().columns.get("pattern"), row);
  return [
    methodText(row),
    pattern,
    pattern && !pattern.includes(":") ? percent(table().sparsity[row]) : "",
    table().id[row].slice(-8),
  ]
    .filter(Boolean)
    .join(" ");
}

function heads(rows) {
  return rows.map((row, index) => (index === 0 ? `${nameOf(row)} (baseline)` : nameOf(row)));
}

function picked(rows) {
  const others = (row) => readState().pick.filter((job) => job !== table().id[row]);
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
          ? element(
              "button",
              { type: "button", id: `first-${job}`, onclick: () => go({ pick: [job, ...others(row)] }) },
              "make baseline",
            )
          : element("span", { class: "quiet" }, " baseline"),
        element(
          "button",
          {
            type: "button",
            id: `drop-${job}`,
            "aria-label": `leave out ${job}`,
            onclick: () => go({ pick: others(row) }),
          },
          "✕",
        ),
      );
    }),
  );
}

/** Fields of the records in which the jobs differ, or all of them. */
function fields(state, rows, records) {
  const flat = records.map((record) => new Map(flattened("", record)));
  const names = together([...new Set(flat.flatMap((entries) => [...entries.keys()]))]);
  const differs = (name) => new Set(flat.map((entries) => entries.get(name) ?? DASH)).size > 1;
  const shown = state.fields === "all" ? names : names.filter(differs);
  const lines = shown.map((name) => [name, ...flat.map((entries) => entries.get(name) ?? DASH)]);
  return element(
    "section",
    {},
    element("h3", {}, "Fields"),
    tick(
      "all-fields",
      `also the ${count(names.length - names.filter(differs).length, "field")} that they share`,
      state.fields === "all",
      (on) => go({ fields: on ? "all" : "" }),
    ),
    lines.length ? grid("Fields", ["field", ...heads(rows)], lines) : element("p", {}, "The jobs differ in no field."),
  );
}

/** Dotted names, those of one group beside each other, in the order in which groups come first. */
function together(names) {
  const group = (name) => name.split(".").slice(0, 2).join(".");
  const groups = [...new Set(names.map((name) => name.split(".")[0]).concat(names.map(group)))];
  const place = (name) => groups.indexOf(name.split(".")[0]) * names.length * 2 + groups.indexOf(group(name));
  return names.sort((a, b) => place(a) - place(b));
}

function flattened(prefix, value) {
  if (value === null || typeof value !== "object" || Array.isArray(value))
    return [[prefix, prefix === "provenance.command" ? value.join(" ") : inline(value)]];
  return Object.entries(value)
    .filter(([name]) => prefix || !NOT_COMPARED.has(name))
    .flatMap(([name, part]) => flattened(prefix ? `${prefix}.${name}` : name, part));
}

/** Metrics, and their differences to the first job. */
function numbersOf(rows) {
  const measured = metrics().filter((metric) => rows.some((row) => metric.values[row] !== null));
  const cell = (metric, row, index) => {
    const value = metric.values[row],
      base = metric.values[rows[0]];
    if (index === 0 || value === null || base === null) return number(value);
    const better = value === base ? "" : value > base === metric.higher ? "better" : "worse";
    return element(
      "span",
      {},
      `${number(value)} `,
      element("span", { class: `change ${better}` }, signed(value - base)),
    );
  };
  const lines = measured.map((metric) => [
    element("span", { title: metric.protocol }, `${metric.label} ${metric.higher ? "↑" : "↓"}`),
    ...rows.map((row, index) => cell(metric, row, index)),
  ]);
  const time = ["wall time", ...rows.map((row) => duration(content().columns.get("time").values[row]))];
  return element(
    "section",
    {},
    element("h3", {}, "Results"),
    grid("Results", ["metric", ...heads(rows)], [...lines, time], new Set(rows.map((_, index) => index + 1))),
  );
}

async function flips(rows, answers) {
  const others = rows.slice(1).map((row, index) => [row, answers[index + 1]]);
  const parts = await Promise.all(others.map(([row, given]) => flipsOf(rows[0], row, answers[0], given)));
  return element(
    "section",
    {},
    element("h3", {}, "Flipped questions"),
    element(
      "p",
      { class: "quiet" },
      "A question flips when one job answers it right and the other wrong. Interval: 95 %, paired bootstrap over all " +
        "resamples. p: exact McNemar test, two-sided.",
    ),
    parts,
  );
}

async function flipsOf(base, row, before, after) {
  const title = element("h4", {}, `${nameOf(base)} → ${nameOf(row)}`);
  if (!before || !after)
    return element(
      "div",
      {},
      title,
      element(
        "p",
        {},
        `This page holds no answers to single questions of ${[!before && nameOf(base), !after && nameOf(row)].filter(Boolean).join(" and ")}.`,
      ),
    );
  const found = await flipsBetween(before, after);
  if (!found.length) return element("div", {}, title, element("p", {}, "They answered no question in common."));
  const lines = found.map((one) => [
    one.task,
    one.metric,
    String(one.questions),
    String(one.bothRight),
    String(one.lost),
    String(one.won),
    String(one.questions - one.bothRight - one.lost - one.won),
    String(one.changed),
    signed((100 * (one.won - one.lost)) / one.questions),
    one.interval.map((end) => signed(100 * end)).join(" to "),
    probability(one.p),
  ]);
  return element(
    "div",
    {},
    title,
    grid(
      "Flips by task",
      [
        "task",
        "metric",
        "questions",
        "both right",
        "right → wrong",
        "wrong → right",
        "both wrong",
        "other option",
        "difference [points]",
        "95 % interval",
        "p",
      ],
      lines,
      new Set([2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ),
    marginsOf(found),
    found.filter((one) => one.flipped.length).map((one) => flippedList(one, row)),
  );
}

/** How far the right option lies above the best other one, over all questions, and how that moved. */
function marginsOf(found) {
  const lines = found
    .filter((one) => one.margins.change)
    .flatMap((one) =>
      [
        ["baseline", one.margins.before],
        ["this job", one.margins.after],
        ["change", one.margins.change],
      ].map(([name, values]) => [`${one.task} ${one.metric}`, name, ...values.map((value) => value.toFixed(3))]),
    );
  if (!lines.length) return null;
  const title = "Margins: log-likelihood of the right option minus that of the best other one";
  return element(
    "details",
    { class: "margins" },
    element("summary", {}, title),
    grid(title, ["task", "of", "mean", "5 %", "25 %", "median", "75 %", "95 %"], lines, new Set([2, 3, 4, 5, 6, 7])),
  );
}

function probability(p) {
  return p < 0.001 ? p.toExponential(1) : p.toFixed(3);
}

function flippedList({ task, metric, flipped, protocol }, row) {
  const shown = flipped.slice(0, FLIPS_SHOWN);
  const withText = shown.some((question) => question.text !== null);
  const margin = (answer) => (answer.margin === null ? DASH : signed(answer.margin));
  const lines = shown.map((question) => [
    `${question.index}`,
    question.lost ? "right → wrong" : "wrong → right",
    question.gold,
    `${question.before.chosen} → ${question.after.chosen}`,
    `${margin(question.before)} → ${margin(question.after)}`,
    ...(withText ? [element("span", { class: "question" }, question.text ?? DASH)] : []),
  ]);
  const title = `${task} ${metric}: ${count(flipped.length, "flipped question")}`;
  return element(
    "details",
    { class: "numbers" },
    element("summary", { id: `flips-${row}-${protocol}-${metric}` }, title),
    flipped.length > FLIPS_SHOWN
      ? element("p", { class: "quiet" }, `The ${FLIPS_SHOWN} whose margin changed most.`)
      : null,
    grid(
      title,
      ["question", "flip", "right option", "chosen", "margin (right − best other)", ...(withText ? ["text"] : [])],
      lines,
      new Set([4]),
    ),
  );
}
