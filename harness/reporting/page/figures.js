// Figures as plain data for Plotly: pure functions of rows; nothing here touches the page.

import { axisNamed, axisText, metrics, table } from "./data.js";
import { DASH, count, number, percent, plain } from "./format.js";
import { differing } from "./selection.js";

const NOT_A_SERIES = new Set([
  "sparsity",
  "seed",
  "pattern",
  "status",
  "checkout",
  "device",
]);
export const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "triangle-down"];
const DASHES = ["solid", "dot", "longdash", "dashdot"];

/** What can be on the vertical axis: every metric, and the mean of the accuracies of one kind. */
export function measures(rows) {
  const measured = metrics().filter((metric) => rows.some((row) => metric.values[row] !== null));
  const single = measured.map((metric) => ({ ...metric, of: (row) => metric.values[row] }));
  const suites = Map.groupBy(
    measured.filter((metric) => metric.kind === "zero_shot" && metric.unit === "%"),
    suite,
  );
  return [
    ...single,
    ...[...suites].filter(([, members]) => members.length > 1).map(([name, members]) => mean(name, members)),
  ];
}

/** Metric and number of questions: accuracies that may be averaged. */
function suite(metric) {
  const limit = metric.protocol.split(":").find((part) => /^first\d+$/.test(part));
  return limit ? `${metric.metric} ${limit.replace("first", "first ")}` : metric.metric;
}

function mean(name, members) {
  const of = (row) => {
    const values = members.map((member) => member.values[row]);
    return values.includes(null) ? null : values.reduce((sum, value) => sum + value, 0) / values.length;
  };
  const tasks = members.map((member) => member.task).join(", ");
  return {
    key: `mean:${name}`,
    label: `mean ${name} % of ${tasks}`,
    shortLabel: `mean ${name} % of ${members.length} tasks`,
    unit: "%",
    higher: true,
    kind: "zero_shot",
    of,
  };
}

/** Groups of rows that one line or colour stands for: equal in every axis in which the rows differ. */
export function series(rows) {
  const axes = differing(rows).shown.filter((axis) => !NOT_A_SERIES.has(axis.key));
  const method = axisNamed("method");
  const named = axes.includes(method) ? axes : [method, ...axes];
  const name = (row) =>
    named
      .map((axis) => axisText(axis, row))
      .filter(Boolean)
      .join(" · ");
  return Map.groupBy(rows, name);
}

/** A measure against sparsity: a line a method through unstructured jobs, marks for N:M, a dashed line for dense. */
export function curves(rows, measure, { counted, log, colours }) {
  const { dense, sparsity, achieved } = table();
  const x = (row) => 100 * (counted ? (achieved[row] ?? sparsity[row]) : sparsity[row]);
  const usable = rows.filter((row) => Number.isFinite(measure.of(row) ?? NaN));
  const pruned = usable.filter((row) => !dense[row]);
  const patterns = [...new Set(pruned.map((row) => axisText(axisNamed("pattern"), row)))];
  const traces = [...series(pruned)].flatMap(([name, members], index) =>
    [...Map.groupBy(members, (row) => axisText(axisNamed("pattern"), row))].map(([pattern, points], place) => ({
      ...curve(name, pattern, points, x, measure, strokeOf(index, colours), symbolOf(patterns, pattern)),
      showlegend: false,
      first: place === 0,
    })),
  );
  const range = pruned.length ? [Math.min(...pruned.map(x)), Math.max(...pruned.map(x))] : [0, 100];
  const lines = [...series(usable.filter((row) => dense[row]))].map(([name, members]) =>
    denseLine(name, members, range, measure, colours),
  );
  return {
    data: [...lines, ...traces, ...keysOf(traces, patterns, colours.at(-1))],
    left: rows.length - usable.length,
    layout: {
      xaxis: { title: { text: counted ? "prunable weights removed, counted (%)" : "sparsity asked for (%)" } },
      yaxis: {
        title: { text: withDirection(measure) },
        ...(log ? { type: "log", dtick: "D2", minorloglabels: "complete" } : {}),
      },
    },
    table: {
      headers: ["series", "pattern", "sparsity %", measure.label],
      rows: [...series(usable)].flatMap(([name, members]) =>
        members.map((row) => [
          name,
          axisText(axisNamed("pattern"), row) || DASH,
          number(x(row)),
          number(measure.of(row)),
        ]),
      ),
    },
  };
}

function symbolOf(patterns, pattern) {
  return SYMBOLS[patterns.indexOf(pattern) % SYMBOLS.length];
}

/** Colour and dashes of a series; the last colour is for dense models. */
function strokeOf(index, colours) {
  const own = colours.length - 1;
  return { color: colours[index % own], dash: DASHES[Math.floor(index / own) % DASHES.length], width: 2 };
}

/** The legend: a line a series, and a mark a pattern when there are several. */
function keysOf(traces, patterns, colour) {
  const nowhere = { type: "scatter", x: [null], y: [null], hoverinfo: "skip" };
  const lines = traces
    .filter((trace) => trace.first)
    .map(({ legendgroup, line, marker }) => ({
      ...nowhere,
      mode: "lines+markers",
      name: plain(legendgroup),
      legendgroup,
      line,
      marker: { ...marker, symbol: "circle" },
    }));
  const marks =
    patterns.length < 2
      ? []
      : patterns.map((pattern) => ({
          ...nowhere,
          mode: "markers",
          name: plain(pattern),
          marker: { color: colour, size: 9, symbol: symbolOf(patterns, pattern) },
        }));
  return [...lines, ...marks];
}

function curve(name, pattern, rows, x, measure, line, symbol) {
  const ordered = [...rows].sort((a, b) => x(a) - x(b));
  const joined = !pattern.includes(":") && new Set(ordered.map(x)).size > 1;
  return {
    type: "scatter",
    mode: joined ? "lines+markers" : "markers",
    name: plain(`${name} ${pattern}`),
    legendgroup: name,
    x: ordered.map(x),
    y: ordered.map(measure.of),
    customdata: ordered,
    marker: { color: line.color, symbol, size: 9 },
    line,
    hovertemplate: `<b>%{fullData.name}</b><br>%{x:.4g} %: %{y:.5g}<extra></extra>`,
  };
}

function denseLine(name, rows, [from, to], measure, colours) {
  const value = rows.reduce((sum, row) => sum + measure.of(row), 0) / rows.length;
  return {
    type: "scatter",
    mode: "lines",
    name: plain(name),
    x: [Math.min(0, from), to],
    y: [value, value],
    customdata: [rows[0], rows[0]],
    line: { color: colours.at(-1), dash: "dash", width: 1.5 },
    hovertemplate: `${"<b>%{fullData.name}</b>"}<br>%{y:.5g}<extra></extra>`,
  };
}

function withDirection(measure) {
  return `${measure.shortLabel ?? measure.label} ${measure.higher ? "↑" : "↓"}`;
}

/** Methods against patterns; a cell is the mean of its jobs. */
export function heat(rows, measure, { log, scale }) {
  const { dense, sparsity } = table();
  const usable = rows.filter((row) => !dense[row] && Number.isFinite(measure.of(row) ?? NaN));
  const across = columnsOfHeat(usable);
  const down = [...series(usable)];
  const cell = (members, at) => {
    const values = members.filter((row) => heatColumn(row) === at).map(measure.of);
    return values.length
      ? { value: values.reduce((sum, value) => sum + value, 0) / values.length, jobs: values.length }
      : null;
  };
  const cells = down.map(([, members]) => across.map((at) => cell(members, at)));
  const shade = (found) => (found === null ? null : log ? Math.log10(found.value) : found.value);
  const text = cells.map((line) => line.map((found) => (found ? number(found.value) : "")));
  const hover = cells.map((line) =>
    line.map((found) =>
      found ? `${number(found.value)}, ${found.jobs === 1 ? "one job" : `mean of ${found.jobs} jobs`}` : "",
    ),
  );
  return {
    left: rows.filter((row) => !dense[row]).length - usable.length,
    data: [
      {
        type: "heatmap",
        x: across.map(plain),
        y: down.map(([name]) => plain(name)),
        z: cells.map((line) => line.map(shade)),
        text,
        customdata: hover,
        texttemplate: "%{text}",
        hovertemplate: "<b>%{y}</b>, %{x}<br>%{customdata}<extra></extra>",
        colorscale: scale,
        reversescale: measure.higher,
        xgap: 2,
        ygap: 2,
        showscale: false,
      },
    ],
    layout: {
      xaxis: { type: "category", showgrid: false },
      yaxis: { type: "category", autorange: "reversed", showgrid: false },
      height: 140 + 44 * Math.max(3, down.length),
      title: { text: `${withDirection(measure)}; lighter is worse`, font: { size: 13 } },
    },
    table: {
      headers: ["method", ...across],
      rows: down.map(([name], index) => [name, ...text[index].map((found) => found || DASH)]),
    },
  };
}

export function heatColumn(row) {
  const pattern = axisText(axisNamed("pattern"), row);
  return pattern.includes(":") ? pattern : `${pattern} ${percent(table().sparsity[row])}`;
}

function columnsOfHeat(rows) {
  const pattern = axisNamed("pattern");
  const ordered = [...rows].sort(
    (a, b) => pattern.codes[a] - pattern.codes[b] || table().sparsity[a] - table().sparsity[b],
  );
  return [...new Set(ordered.map(heatColumn))];
}

/** What the figure leaves out, in words; empty when it leaves out nothing. */
export function leftOut(figure) {
  const parts = [];
  if (figure.left) parts.push(`${count(figure.left, "job")} without a finite value`);
  if (figure.cut) parts.push(`${count(figure.cut, "shorter job")}`);
  return parts.length ? `not drawn: ${parts.join(", ")}` : "";
}
