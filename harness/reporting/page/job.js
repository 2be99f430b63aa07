// The view of one job: everything its record says.

import { element, fill, folded, grid, pairs, section } from "./dom.js";
import { content, documentOf, rowOf } from "./data.js";
import { DASH, number } from "./format.js";
import { drawChart } from "./figures.js";
import { address, go, readState } from "./state.js";

/** Draws the job that the state names. */
export async function drawJob(parent, state) {
  const row = rowOf(state.job);
  if (row < 0) {
    fill(parent, element("p", { class: "empty" }, `There is no job ${state.job} in this page.`));
    return;
  }
  const job = await documentOf(row);
  if (readState().job !== state.job) return; // the reader went on
  const notes = job.notes.map((note) => element("li", {}, note));
  const results = ["task", "metric", "value", "stderr", "n", "protocol", "subset", "data", "published in"];
  fill(
    parent,
    heading(state, job),
    job.error ? section("Error", element("pre", { class: "error", tabindex: "0" }, job.error)) : null,
    notes.length ? section("Notes", element("ul", {}, notes)) : null,
    section("Results", job.results.length ? grid("Results", results, job.results) : "Nothing was measured."),
    element("div", { class: "columns" }, section("Job", pairs(job.job)), section("Time and memory", pairs(job.cost))),
    layers(job, row),
    section("Provenance", pairs(job.provenance)),
  );
}

function heading(state, job) {
  const picked = state.pick.includes(job.id);
  const pick = picked ? state.pick.filter((other) => other !== job.id) : [...state.pick, job.id];
  return element(
    "header",
    { class: "job" },
    element("h2", { id: "job-title" }, job.id),
    element("span", { class: `status ${job.status}` }, job.status),
    job.dirty ? element("span", { class: "status dirty" }, "† uncommitted changes") : null,
    element(
      "button",
      { type: "button", id: "pick", "aria-pressed": String(picked), onclick: () => go({ pick }, true) },
      picked ? "✓ will be compared" : "Add to comparison",
    ),
    element("a", { class: "button", href: address({ view: "", job: "" }), id: "back" }, "All jobs"),
  );
}

function layers(job, row) {
  if (content().without_layers.includes(row))
    return section(
      "Layers",
      element("p", {}, "This page holds the layers of the latest jobs only. All of them are printed by "),
      element("pre", {}, `prunebench show ${job.id} --json`),
    );
  if (!job.layers?.layer.length) return null;
  const heads = ["layer", "shape", "asked", "zeros", "output error", "details"];
  const names = ["layer", "shape", "asked", "zeros", "error", "details", "kind"];
  const rows = job.layers.layer.map((_, place) => ({
    ...Object.fromEntries(names.map((name) => [name, job.layers[name][place]])),
    number: place + 1,
  }));
  const lines = rows.map(({ layer, shape, asked, zeros, error, details }) => [
    ...[layer, shape, asked, `${number(zeros)}%`],
    ...[typeof error === "number" ? error.toFixed(4) : (error ?? DASH), details],
  ]);
  const canvas = element("div", { class: "scroll" });
  requestAnimationFrame(() => drawChart(canvas, { ...content().layer_chart, datasets: { layers: rows } }));
  return section(
    `Layers (${rows.length})`,
    canvas,
    folded("layers", "all layers as a table", grid("Layers", heads, lines)),
  );
}
