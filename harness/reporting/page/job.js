// The view of one job: everything its record says.

import { element, fill, grid, pairs } from "./dom.js";
import { columnOf, content, recordOf, rowOf } from "./data.js";
import { DASH, count, duration, gibibytes, inline, moment, number, percent, signed } from "./format.js";
import { layerFigure } from "./breakdown.js";
import { colours, draw } from "./plots.js";
import { address, go } from "./state.js";

/** Draws the job that the state names. */
export async function drawJob(parent, state) {
  const row = rowOf(state.job);
  if (row < 0) {
    fill(parent, element("p", { class: "empty" }, `There is no job ${state.job} in this page.`));
    return;
  }
  const record = await recordOf(row);
  if (new URLSearchParams(location.hash.slice(1)).get("job") !== state.job) return; // the reader went on
  fill(
    parent,
    heading(state, record, row),
    failure(record),
    notes(record),
    element(
      "div",
      { class: "columns" },
      section("Job", pairs(jobPairs(record))),
      section("Time and memory", timeBar(record), pairs(costPairs(record))),
    ),
    section("Results", results(record, row)),
    layers(record, row),
    section("Provenance", pairs(provenance(record))),
  );
}

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), children);
}

function heading(state, record, row) {
  const picked = state.pick.includes(record.job_id);
  const pick = picked ? state.pick.filter((job) => job !== record.job_id) : [...state.pick, record.job_id];
  return element(
    "header",
    { class: "job" },
    element("h2", { id: "job-title" }, record.job_id),
    element("span", { class: `status ${record.status}` }, record.status),
    record.provenance.dirty ? element("span", { class: "status dirty" }, "† uncommitted changes") : null,
    element(
      "button",
      { type: "button", id: "pick", "aria-pressed": String(picked), onclick: () => go({ pick }, true) },
      picked ? "✓ will be compared" : "Add to comparison",
    ),
    element("a", { class: "button", href: address({ view: "", job: "" }), id: "back" }, "All jobs"),
  );
}

function failure(record) {
  return record.error ? section("Error", element("pre", { class: "error", tabindex: "0" }, record.error)) : null;
}

function notes(record) {
  return record.notes.length
    ? section(
        "Notes",
        element(
          "ul",
          {},
          record.notes.map((note) => element("li", {}, note)),
        ),
      )
    : null;
}

function jobPairs(record) {
  return [
    ...Object.entries(record.job).map(([name, value]) => [name, inline(value)]),
    ["zeros counted", percent(record.achieved_sparsity)],
  ];
}

function costPairs(record) {
  return [
    ...Object.entries(record.timings_s).map(([step, seconds]) => [step, duration(seconds)]),
    ...Object.entries(record.peak_memory_bytes).map(([where, size]) => [`peak memory (${where})`, gibibytes(size)]),
  ];
}

/** The steps as parts of one bar. */
function timeBar(record) {
  const { total, ...steps } = record.timings_s;
  if (!total) return null;
  const palette = colours();
  const parts = Object.entries(steps).map(([step, seconds], index) =>
    element("span", {
      style: `flex-grow:${seconds / total};background:${palette[index % palette.length]}`,
      title: `${step} ${duration(seconds)}`,
    }),
  );
  const keys = Object.entries(steps).map(([step, seconds], index) =>
    element(
      "li",
      {},
      element("i", { style: `background:${palette[index % palette.length]}` }),
      `${step} ${Math.round((100 * seconds) / total)}%`,
    ),
  );
  return element(
    "div",
    { class: "split" },
    element("div", { class: "bar", "aria-hidden": "true" }, parts),
    element("ul", {}, keys),
  );
}

function results(record, row) {
  if (!record.results.length) return element("p", {}, "Nothing was measured.");
  const lines = record.results.map((result) => {
    const column = columnOf(`${result.protocol}/${result.metric}`);
    const value = column.values[row];
    const found = column.published.get(row);
    return [
      result.task,
      result.metric,
      valueText(value, column),
      column.stderr[row] === null ? DASH : `± ${number(column.stderr[row])}`,
      found
        ? element(
            "span",
            { title: found.source },
            `${found.text} (${value === null ? DASH : signed(value - found.value)})`,
          )
        : DASH,
      String(result.num_samples),
      result.protocol,
      result.subset ?? "all",
      result.data_source,
    ];
  });
  return grid(
    "Results",
    ["task", "metric", "value", "stderr", "published", "n", "protocol", "subset", "data"],
    lines,
    new Set([2, 3, 4, 5]),
  );
}

function valueText(value, column) {
  return value === null || column.unit !== "%" ? number(value) : `${number(value)}%`;
}

function layers(record, row) {
  if (content().without_layers.includes(row))
    return section(
      "Layers",
      element("p", {}, "This page holds the layers of the latest jobs only. All of them are printed by "),
      element("pre", {}, `prunebench show ${record.job_id} --json`),
    );
  const columns = record.layer_columns;
  if (!columns?.name.length) return null;
  columns.error = columns.error.map((value) => (typeof value === "string" ? Number(value) : value));
  const canvas = element("div", {});
  const lines = columns.name.map((name, index) => [
    name,
    columns.shape[index],
    percent(columns.requested[index]),
    percent(columns.achieved[index]),
    columns.error[index] === null ? DASH : columns.error[index].toFixed(4),
    inline(columns.details?.[index] ?? null),
  ]);
  draw(canvas, layerFigure(columns, colours()), `output error and zeros of ${count(columns.name.length, "layer")}`);
  return section(
    `Layers (${columns.name.length})`,
    canvas,
    element(
      "details",
      { class: "numbers" },
      element("summary", { id: "layers" }, "all layers as a table"),
      grid("Layers", ["layer", "shape", "asked", "zeros", "output error", "details"], lines, new Set([1, 2, 3, 4])),
    ),
  );
}

function provenance(record) {
  const from = record.provenance;
  const data = [...new Set(record.results.map((result) => `${result.task}: ${result.data_source}`))];
  return [
    ["ended", `${moment(from.created)} UTC`],
    [
      "code",
      `prunebench ${from.prunebench_version}, commit ${from.commit ?? DASH}${from.dirty ? " with uncommitted changes" : ""}`,
    ],
    ["ran on", `${from.device}, weights in ${from.dtype}, Python ${from.python}, ${from.platform}`],
    ["hardware", inline(from.hardware)],
    [
      "packages",
      Object.entries(from.packages)
        .map(([name, version]) => `${name} ${version}`)
        .join(", "),
    ],
    ["command", element("code", {}, from.command.join(" ") || DASH)],
    ["weights", record.weights_fingerprint ?? DASH],
    ...data.map((text) => ["data", text]),
  ];
}
