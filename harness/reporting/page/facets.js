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
  const differ = new Set(differing([...table().id.keys()]).shown);
  const groups = table().axes.filter((axis) => differ.has(axis) || state.filters.has(axis.key));
  const nothing = element("p", { class: "quiet" }, "The jobs differ in no field.");
  fill(parent, groups.length ? groups.map((axis) => group(axis, state, counts.get(axis.key))) : nothing);
}

function group(axis, state, counts) {
  const chosen = state.filters.get(axis.key) ?? new Set();
  const values = [...new Set([...axis.values, ...chosen])]; // also those that no job has any more
  const open = toggled.get(axis.key) ?? (chosen.size > 0 || axis.values.length <= OPEN_UP_TO);
  const title = chosen.size ? `${axis.label} (${chosen.size} chosen)` : axis.label;
  const legend = element("legend", { class: "unseen" }, axis.label);
  const boxes = values.map((value, place) => box(axis, place, value, counts[place] ?? 0, state));
  const details = element(
    "details",
    { open, ontoggle: () => toggled.set(axis.key, details.open) },
    element("summary", { id: `facet-${axis.key}` }, title),
    element("fieldset", {}, legend, boxes),
  );
  return details;
}

function box(axis, place, value, amount, state) {
  const id = `facet-${axis.key}-${place}`;
  const chosen = new Set(state.filters.get(axis.key));
  const onchange = () => {
    if (!chosen.delete(value)) chosen.add(value);
    const filters = new Map(state.filters).set(axis.key, chosen);
    if (!chosen.size) filters.delete(axis.key);
    go({ filters, page: "" });
  };
  const input = element("input", { type: "checkbox", id, checked: chosen.has(value), onchange });
  const label = element("label", { for: id, title: value }, shortened(value) || "not applicable");
  const number = element("span", { class: "amount", "aria-label": `${amount} jobs` }, amount.toLocaleString("en"));
  return element("div", { class: amount ? "choice" : "choice none" }, input, label, number);
}
