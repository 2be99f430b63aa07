// Which rows are shown and in which order.

import { content, columnOf, table } from "./data.js";

/** Rows that pass search and facets, and for every axis how many rows each of its values would show. */
export function selected(state) {
  const { id, axes } = table();
  const allowed = axes.map((axis) => allowedCodes(axis, state.filters.get(axis.key)));
  const counts = axes.map((axis) => new Uint32Array(axis.values.length));
  const found = matches(state.q);
  const rows = [];
  for (let row = 0; row < id.length; row++) {
    if (found && !found(row)) continue;
    let refused = 0,
      by = -1;
    for (let a = 0; a < axes.length && refused < 2; a++)
      if (allowed[a] && !allowed[a][axes[a].codes[row]]) {
        refused++;
        by = a;
      }
    if (refused === 0) {
      rows.push(row);
      axes.forEach((axis, a) => counts[a][axis.codes[row]]++);
    } else if (refused === 1) counts[by][axes[by].codes[row]]++; // its own facet alone hides it
  }
  return { rows, counts: new Map(axes.map((axis, a) => [axis.key, counts[a]])) };
}

/** Null = all are allowed; a value that no job has any more allows nothing, and is still shown as chosen. */
function allowedCodes(axis, chosen) {
  return chosen ? axis.values.map((value) => chosen.has(value)) : null;
}

/** All words of the search, anywhere in the job's id and fields; null = nothing is searched. */
function matches(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const texts = (content().words ??= searchTexts());
  return (row) => words.every((word) => texts[row].includes(word));
}

function searchTexts() {
  const { id, axes, error } = table();
  return id.map((job, row) =>
    [job, ...axes.map((axis) => axis.values[axis.codes[row]]), error[row] ?? ""].join("\n").toLowerCase(),
  );
}

/** `key` or `-key`: what to sort by and whether downwards; no key is the order of the tables. */
export function sortOf(state) {
  const down = state.sort.startsWith("-");
  return { key: down ? state.sort.slice(1) : state.sort, down };
}

/** The rows in the order asked for; rows without a value come last in both directions. */
export function sorted(rows, state) {
  const { key, down } = sortOf(state);
  const column = columnOf(key);
  if (!column) return rows;
  const values = column.codes ? column.codes : column.values;
  const missing = (row) =>
    column.codes ? column.values[values[row]] === "" : values[row] === null || Number.isNaN(values[row]);
  const present = rows.filter((row) => !missing(row));
  const sign = down ? -1 : 1;
  present.sort((a, b) => sign * (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : 0) || a - b);
  return [...present, ...rows.filter(missing)];
}

/** Axes in which these jobs differ, and what they have in common.  An axis that does not apply to a job (a dense job's
    calibration) says nothing of it, and parameters differ only between jobs of one method. */
export function differing(rows) {
  const shown = [],
    common = [];
  for (const axis of table().axes) {
    const found = valuesWithin(axis, rows);
    if ([...found.values()].some((codes) => codes.size > 1)) shown.push(axis);
    else if (found.size === 1 && saysOfAll(axis, rows))
      common.push([axis, axis.values[[...found.values()][0].values().next().value]]);
  }
  return { shown, common };
}

/** Whether every job has the axis that can: the parameters of one method are not common to several methods. */
function saysOfAll(axis, rows) {
  const outer = axis.within ? columnOf(axis.within) : null;
  return !outer || rows.every((row) => axis.values[axis.codes[row]] !== "" || outer.values[outer.codes[row]] === "");
}

/** Codes of the axis by the group in which they are compared; it stops at the first difference. */
function valuesWithin(axis, rows) {
  const group = axis.within ? columnOf(axis.within).codes : null;
  const found = new Map();
  for (const row of rows) {
    const code = axis.codes[row];
    if (axis.values[code] === "") continue;
    const name = group ? group[row] : 0;
    if (!found.has(name)) found.set(name, new Set());
    if (found.get(name).add(code).size > 1) break;
  }
  return found;
}
