// Figures of one job's parts: where its time went, and what pruning did to its layers.

import { table } from "./data.js";
import { duration, plain } from "./format.js";
import { SYMBOLS, heatColumn, series } from "./figures.js";

const MOST_BARS = 40;

/** Where the time went, a bar a job; the longest jobs when there are many. */
export function times(rows, colours) {
  const { steps, id } = table();
  const total = steps.total ?? [];
  const shown = [...rows].sort((a, b) => (total[b] ?? 0) - (total[a] ?? 0)).slice(0, MOST_BARS);
  const parts = Object.keys(steps).filter((step) => step !== "total");
  const other = (row) => Math.max(0, (total[row] ?? 0) - parts.reduce((sum, step) => sum + (steps[step][row] ?? 0), 0));
  const spent = new Map([...parts.map((step) => [step, (row) => steps[step][row] ?? 0]), ["other", other]]);
  const names = new Map([...series(shown)].flatMap(([name, members]) => members.map((row) => [row, name])));
  const label = (row) => `${names.get(row)} ${heatColumnOrDense(row)} · ${id[row].slice(-8)}`;
  return {
    left: 0,
    cut: rows.length - shown.length,
    data: [...spent].map(([step, of], index) => ({
      type: "bar",
      orientation: "h",
      name: plain(step),
      x: shown.map(of),
      y: shown.map(label).map(plain),
      customdata: shown,
      text: shown.map((row) => duration(of(row))),
      textposition: "none",
      marker: { color: colours[index % colours.length] },
      hovertemplate: `<b>%{y}</b><br>${plain(step)}: %{text}<extra></extra>`,
    })),
    layout: {
      barmode: "stack",
      xaxis: { title: { text: "seconds" } },
      yaxis: { autorange: "reversed" },
      height: 140 + 22 * shown.length,
    },
    table: {
      headers: ["job", ...spent.keys()],
      rows: shown.map((row) => [label(row), ...[...spent.values()].map((of) => duration(of(row)))]),
    },
  };
}

function heatColumnOrDense(row) {
  return table().dense[row] ? "" : heatColumn(row);
}

/** Output error and counted zeros of every pruned layer, in model order; a colour a kind of layer. */
export function layerFigure(columns, colours) {
  const kinds = Map.groupBy(
    columns.name.map((_, index) => index),
    (index) => columns.name[index].split(".").pop(),
  );
  const trace = (kind, members, values, axis, index) => ({
    type: "scatter",
    mode: "markers",
    name: plain(kind),
    legendgroup: kind,
    showlegend: axis === "y",
    x: members.map((member) => member + 1),
    y: members.map(values),
    text: members.map((member) => plain(columns.name[member])),
    yaxis: axis,
    marker: { color: colours[index % colours.length], symbol: SYMBOLS[index % SYMBOLS.length], size: 7 },
    hovertemplate: "<b>%{text}</b><br>%{y:.4g}<extra></extra>",
  });
  const lists = [...kinds];
  const measured = columns.error.some((value) => value !== null);
  return {
    left: 0,
    data: [
      ...lists.flatMap(([kind, members], index) => [
        measured ? trace(kind, members, (member) => columns.error[member], "y", index) : null,
        { ...trace(kind, members, (member) => 100 * columns.achieved[member], "y2", index), showlegend: !measured },
      ]),
    ].filter(Boolean),
    layout: {
      height: 460,
      xaxis: { title: { text: "layer, in model order" }, anchor: "y2" },
      yaxis: { title: { text: "relative output error" }, domain: [0.46, 1], rangemode: "tozero" },
      yaxis2: { title: { text: "zeros (%)" }, domain: [0, 0.36] },
    },
  };
}
