// The plots: Plotly is unpacked when the first one is drawn.

import { chooser, element, fill, grid, tick } from "./dom.js";
import { inflate, table } from "./data.js";
import { times } from "./breakdown.js";
import { curves, heat, leftOut, measures } from "./figures.js";
import { go } from "./state.js";

const PLOTS = [
  ["curves", "perplexity against sparsity"],
  ["tradeoff", "accuracy against compression"],
  ["heat", "heat map: method × pattern"],
  ["time", "where the time went"],
];
const WORST_FIRST = [
  [0, "#0b3c49"],
  [0.25, "#13677b"],
  [0.5, "#3b9a8f"],
  [0.75, "#9ccf8d"],
  [1, "#f4f1b8"],
];
const LEGEND_LINE = 24; // pixels
const WIDE = 700; // pixels from which the legend stands beside the plot
let loading = null;

/** Draws the plot that the state names, of these rows. */
export function drawPlots(parent, state, rows) {
  const plot = PLOTS.some(([name]) => name === state.plot) ? state.plot : "curves";
  const choices =
    plot === "time"
      ? []
      : measures(rows).filter((measure) => plot === "heat" || (measure.unit === "%") === (plot === "tradeoff"));
  const measure = choices.find((choice) => choice.key === state.metric) ?? usual(choices, rows);
  const log = measure?.unit !== "%" && state.scale !== "linear";
  const figure = plot === "time" ? times(rows, colours()) : measure ? figureOf(plot, rows, measure, log) : null;
  const canvas = element("div", { id: "canvas" });
  fill(
    parent,
    controls(plot, choices, measure, log),
    figure
      ? [
          canvas,
          element("p", { class: "quiet" }, leftOut(figure) || "Select a point or bar to open its job."),
          numbers(figure),
        ]
      : element(
          "p",
          { class: "empty" },
          plot === "tradeoff" ? "None of these jobs has an accuracy." : "None of these jobs has such a number.",
        ),
  );
  if (figure) draw(canvas, figure, PLOTS.find(([name]) => name === plot)[1]);
}

/** The measure that most jobs have; of several, a mean of accuracies before one of them. */
function usual(choices, rows) {
  const amount = (choice) =>
    rows.filter((row) => choice.of(row) !== null).length + (choice.key.startsWith("mean:") ? 0.5 : 0);
  return choices.reduce(
    (best, choice) => (best === undefined || amount(choice) > amount(best) ? choice : best),
    undefined,
  );
}

function figureOf(plot, rows, measure, log) {
  if (plot === "heat") return heat(rows, measure, { log, scale: WORST_FIRST });
  return curves(rows, measure, { counted: plot === "tradeoff", log, colours: colours() });
}

function controls(plot, choices, measure, log) {
  return element(
    "div",
    { class: "actions" },
    chooser("plot", "plot", PLOTS, plot, (chosen) => go({ plot: chosen, metric: "", scale: "" })),
    measure
      ? chooser(
          "metric",
          "of",
          choices.map((choice) => [choice.key, choice.label]),
          measure.key,
          (chosen) => go({ metric: chosen }),
        )
      : null,
    measure && measure.unit !== "%"
      ? tick("scale", "logarithmic", log, (on) => go({ scale: on ? "" : "linear" }))
      : null,
  );
}

/** The figure's numbers as a table: for those who do not see it, and for those who copy from it. */
function numbers(figure) {
  const numeric = new Set(figure.table.headers.keys());
  numeric.delete(0);
  return element(
    "details",
    { class: "numbers" },
    element("summary", { id: "numbers" }, "the numbers of this plot"),
    grid("The numbers of this plot", figure.table.headers, figure.table.rows, numeric),
  );
}

/** Draws a figure; a click on a point opens the job whose row it carries. */
export async function draw(canvas, figure, name) {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  canvas.style.minHeight = `${figure.layout.height ?? 500}px`;
  await loadPlotly();
  if (!canvas.isConnected) return; // the view has changed meanwhile
  await globalThis.Plotly.newPlot(canvas, figure.data, themed(figure, canvas.clientWidth > WIDE), {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "prunebench" },
  });
  canvas.on("plotly_click", ({ points: [point] }) => {
    if (typeof point.customdata === "number") go({ view: "job", job: table().id[point.customdata] });
  });
}

function loadPlotly() {
  return (loading ??= inflate(document.getElementById("plotly").textContent).then((text) => {
    document.head.append(element("script", {}, text)); // the policy knows it by its hash
  }));
}

/** The colours of the theme; the last one is for dense models. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  return [1, 2, 3, 4, 5, 6, 7, 8].map((index) => style.getPropertyValue(`--series-${index}`).trim());
}

/** The figure's layout in the page's colours; a narrow one gets room for its legend below the plot. */
function themed({ layout, data }, wide) {
  const style = getComputedStyle(document.documentElement);
  const [ink, line, quiet] = ["--ink", "--line", "--quiet"].map((name) => style.getPropertyValue(name).trim());
  const axis = (given) => ({ gridcolor: line, zerolinecolor: line, linecolor: quiet, automargin: true, ...given });
  const axes = Object.fromEntries(
    Object.entries(layout)
      .filter(([name]) => /axis/.test(name))
      .map(([name, given]) => [name, axis(given)]),
  );
  const entries = data.filter((trace) => trace.type !== "heatmap" && trace.showlegend !== false).length;
  const below = wide ? 0 : LEGEND_LINE * entries;
  return {
    margin: { l: 64, r: 16, t: 40, b: 56 + below },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: style.fontFamily, color: ink, size: 13 },
    legend: wide
      ? { traceorder: "normal" }
      : { traceorder: "normal", x: 0, y: 0, yref: "container", yanchor: "bottom" },
    modebar: { bgcolor: "transparent", color: quiet, activecolor: ink },
    hoverlabel: { font: { family: style.fontFamily } },
    ...layout,
    ...axes,
    height: (layout.height ?? (wide ? 500 : 400)) + below,
  };
}
