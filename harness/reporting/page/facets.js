// The filters at the side: one group of boxes an axis.

import { element, fill } from "./dom.js";
import { table } from "./data.js";
import { shortened } from "./format.js";
import { differing } from "./selection.js";
import { go } from "./state.js";

const OPEN_UP_TO = 8;
const toggled = new Map(); // groups that the reader opened or closed

/** Draws the facets into `parent`; `counts` says how many jobs each value would show. */
export function drawFacets(parent, state, counts) {
  const differ = new Set(differing(table().id.keys().toArray()).shown);
  const groups = table().axes.filter((axis) => differ.has(axis) || state.filters.has(axis.key));
  fill(
    parent,
    groups.map((axis) => group(axis, state, counts.get(axis.key))),
    groups.length ? null : element("p", { class: "quiet" }, "The jobs differ in no field."),
  );
}

function group(axis, state, counts) {
  const chosen = state.filters.get(axis.key) ?? new Set();
  const gone = [...chosen].filter((value) => !axis.values.includes(value));
  const open = toggled.get(axis.key) ?? (chosen.size > 0 || axis.values.length <= OPEN_UP_TO);
  const title = chosen.size ? `${axis.label} (${chosen.size} chosen)` : axis.label;
  const details = element(
    "details",
    { open, ontoggle: () => toggled.set(axis.key, details.open) },
    element("summary", { id: `facet-${axis.key}` }, title),
    element(
      "fieldset",
      {},
      element("legend", { class: "unseen" }, axis.label),
      axis.values.map((value, code) => box(axis, code, value, counts[code], chosen, state)),
      gone.map((value, index) => box(axis, `gone-${index}`, value, 0, chosen, state)),
    ),
  );
  return details;
}

function box(axis, code, value, amount, chosen, state) {
  const id = `facet-${axis.key}-${code}`;
  const input = element("input", {
    type: "checkbox",
    id,
    checked: chosen.has(value),
    onchange: () => go({ filters: withValue(state.filters, axis.key, value, input.checked), page: "" }),
  });
  const label = element("label", { for: id, title: value }, shortened(value) || "not applicable");
  const number = element("span", { class: "amount", "aria-label": `${amount} jobs` }, amount.toLocaleString("en"));
  return element("div", { class: amount ? "choice" : "choice none" }, input, label, number);
}

/** The filters with one value of one axis added or taken away. */
function withValue(filters, axis, value, on) {
  const values = new Set(filters.get(axis));
  if (on) values.add(value);
  else values.delete(value);
  const changed = new Map(filters);
  if (values.size) changed.set(axis, values);
  else changed.delete(axis);
  return changed;
}
