// The figures below the table: each is drawn of the selected jobs when it comes into view.

import { chooser, element, fill, folded, grid } from "./dom.js";
import { content, inflate, table, unpacked } from "./data.js";
import { count, DASH, number } from "./format.js";
import { chartOf, dressed, jobsOf, rowsSaid } from "./charts.js";
import { go } from "./state.js";

const heights = new Map(); // of figures drawn before: the page does not jump when they are drawn again
let vega = null;
let observer = null;

/** Draws the figures of one view, of these rows. */
export function drawFigures(parent, state, rows) {
  const { figures, not_drawn: notDrawn } = content();
  const listed = [...figures.entries()].filter(([, { view }]) => view === state.view);
  const kinds = [...new Set(listed.map(([, figure]) => figure.kind))];
  const options = [["", "all"], ...kinds.map((kind) => [kind, kind])];
  const jobs = new Set(rows.map((row) => table().id[row]));
  const shown = listed.filter(([, { kind }]) => !kinds.includes(state.plot) || kind === state.plot);
  observer?.disconnect();
  observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting) {
        observer.unobserve(target);
        drawFigure(target, jobs);
      }
  });
  const choice = kinds.length > 1 ? chooser("plot", "show", options, state.plot, (plot) => go({ plot })) : null;
  const left = notDrawn.filter(({ view }) => view === state.view);
  fill(
    parent,
    element("div", { class: "actions" }, choice),
    rows.length ? element("div", { class: "figures" }, shown.map(([place, figure]) => frame(figure, place))) : null,
    left.map(({ why }) => element("p", { class: "quiet" }, `not drawn: ${why}`)),
  );
}

function frame({ name, title }, place) {
  const style = `min-height:${heights.get(name) ?? 320}px`;
  const made = element("figure", { id: name, "data-place": place, style }, element("h3", {}, title));
  observer.observe(made);
  return made;
}

async function drawFigure(parent, jobs) {
  const whole = await unpacked(`figure-${parent.dataset.place}`);
  if (!parent.isConnected) return; // the reader went on
  const all = jobs.size === table().id.length;
  const found = all ? { spec: { ...whole, title: undefined }, mixed: 0 } : chartOf(whole, jobs);
  if (!found) {
    parent.style.minHeight = 0;
    parent.append(element("p", { class: "quiet" }, "none of the selected jobs is in it"));
    return;
  }
  const canvas = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": parent.id });
  const means = found.mixed === 1 ? "one mark is a mean" : `${found.mixed} marks are means`;
  parent.append(
    element("p", { class: "quiet" }, whole.description ?? ""),
    found.mixed ? element("p", { class: "warning" }, `${means} over jobs some of which the filters hide`) : "",
    canvas,
    numbers(parent.id, found.spec),
  );
  await drawChart(canvas, found.spec);
  parent.style.minHeight = "";
  heights.set(parent.id, parent.offsetHeight);
}

/** Draws a chart; a click on a mark opens its job, or ticks its jobs when there are several. */
export async function drawChart(canvas, spec) {
  await (vega ??= inflate(document.getElementById("vega").textContent).then((text) => {
    document.head.append(element("script", {}, text)); // the policy knows it by its hash
  }));
  if (!canvas.isConnected) return;
  const dark = document.documentElement.dataset.theme === "dark";
  const chart = dressed(spec, dark ? content().on_dark : {}, canvas.clientWidth < 640);
  const { view } = await globalThis.vegaEmbed(canvas, chart, {
    ast: true, // expressions are interpreted: the policy lets no text become code
    renderer: "svg",
    logLevel: 1, // errors
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: "prunebench",
    tooltip: { theme: dark ? "dark" : "light" },
  });
  view.addEventListener("click", (_, mark) => {
    const jobs = mark?.mark.marktype === "line" ? [] : jobsOf(mark?.datum);
    if (jobs.length) go(jobs.length === 1 ? { view: "job", job: jobs[0] } : { pick: jobs });
  });
}

/** The figure's numbers as a table: for those who do not see it, and for those who copy from it. */
function numbers(name, spec) {
  const { fields, rows } = rowsSaid(spec);
  if (!fields.length) return "";
  const cell = (value) => (typeof value === "number" ? number(value) : String(value ?? DASH));
  const lines = rows.map((row) => fields.map((field) => cell(row[field])));
  return folded(`numbers-${name}`, `${count(rows.length, "row")} of numbers`, grid(name, fields, lines));
}
