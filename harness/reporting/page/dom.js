// Elements from data.  Text goes in as text nodes only, so nothing in a record is ever read as HTML.

/** An element with attributes and children; a child is a node, a string, or null for nothing. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** Puts these children in place of what is there; the focused element gets its focus back by its id. */
export function fill(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.id : "";
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** A table with a caption; a cell is a string or a node, the first one of a row heads it. */
export function grid(caption, headers, rows, numeric = new Set()) {
  const kind = (index) => (numeric.has(index) ? { class: "number" } : {});
  const head = headers.map((text, index) => element("th", { scope: "col", ...kind(index) }, text));
  const body = rows.map((cells) =>
    element(
      "tr",
      {},
      cells.map((cell, index) =>
        index === 0 ? element("th", { scope: "row" }, cell) : element("td", kind(index), cell),
      ),
    ),
  );
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element(
      "table",
      {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, head)),
      element("tbody", {}, body),
    ),
  );
}

/** Names and values, one pair a line. */
export function pairs(entries) {
  return element(
    "dl",
    {},
    entries.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

/** A labelled choice; `options` are [value, text] pairs. */
export function chooser(id, label, options, chosen, onChosen) {
  const select = element(
    "select",
    { id, onchange: () => onChosen(select.value) },
    options.map(([value, text]) => element("option", { value, selected: value === chosen }, text)),
  );
  return element("span", { class: "control" }, element("label", { for: id }, label), select);
}

/** A labelled box to tick. */
export function tick(id, label, checked, onTicked) {
  const box = element("input", { type: "checkbox", id, checked, onchange: () => onTicked(box.checked) });
  return element("span", { class: "control" }, box, element("label", { for: id }, label));
}
