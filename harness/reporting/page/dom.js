// Elements from data.  Text goes in as text nodes only, so nothing in a record is ever read as HTML.

const present = (child) => child !== null && child !== undefined;

/** An element with attributes and children; a child is a node, a string, or null for nothing. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && present(value)) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter(present));
  return made;
}

/** Puts these children in place of what is there; the focused element gets its focus back by its id. */
export function fill(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.id : "";
  parent.replaceChildren(...children.flat(Infinity).filter(present));
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** A table with a caption; a cell is a string or a node, the first one of a row heads it.  Numbers stand right. */
export function grid(caption, headers, rows) {
  const texts = (place) => rows.map((cells) => cells[place]?.textContent ?? cells[place]);
  const isNumber = (text) => /^(–|[+-]?[\d.]+\S*)( |$)/.test(text);
  const numeric = headers.map((_, place) => place && texts(place).every(isNumber));
  const kind = (place) => (numeric[place] ? { class: "number" } : {});
  const cell = (text, place) =>
    place ? element("td", kind(place), text) : element("th", { scope: "row" }, text);
  const head = headers.map((text, place) => element("th", { scope: "col", ...kind(place) }, text));
  return sheet(caption, head, rows.map((cells) => element("tr", {}, cells.map(cell))));
}

/** A table that scrolls by itself, of cells of its head and lines of its body. */
export function sheet(caption, head, lines, named = {}) {
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption, ...named },
    element(
      "table",
      {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, head)),
      element("tbody", {}, lines),
    ),
  );
}

/** A part of a view under its title. */
export function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), children);
}

/** What is shown when its title is opened. */
export function folded(id, title, ...children) {
  return element("details", { class: "numbers" }, element("summary", { id }, title), children);
}

/** Names and values, one pair a line. */
export function pairs(entries) {
  return element("dl", {}, entries.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

/** A labelled choice; `options` are [value, text] pairs. */
export function chooser(id, label, options, chosen, onChosen) {
  const option = ([value, text]) => element("option", { value, selected: value === chosen }, text);
  const select = element("select", { id, onchange: () => onChosen(select.value) }, options.map(option));
  return element("span", { class: "control" }, element("label", { for: id }, label), select);
}

/** A labelled box to tick. */
export function tick(id, label, checked, onTicked) {
  const box = element("input", { type: "checkbox", id, checked, onchange: () => onTicked(box.checked) });
  return element("span", { class: "control" }, box, element("label", { for: id }, label));
}
