// What is looked at lives in the address after `#`, and nowhere else: a link is the view, back and forward work.

const SINGLE = ["view", "q", "metric", "sort", "page", "job", "plot", "theme", "fields"];
const FACET = "is.";

/** The state that an address names. */
export function readState(hash = location.hash) {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { filters: new Map(), pick: fields.getAll("pick") };
  for (const name of SINGLE) state[name] = fields.get(name) ?? "";
  for (const [name, value] of fields) {
    if (!name.startsWith(FACET)) continue;
    const axis = name.slice(FACET.length);
    state.filters.set(axis, (state.filters.get(axis) ?? new Set()).add(value));
  }
  return state;
}

/** The address of a state: the same for equal states. */
export function writeState(state) {
  const fields = new URLSearchParams();
  for (const name of SINGLE) if (state[name]) fields.append(name, state[name]);
  for (const axis of [...state.filters.keys()].sort())
    for (const value of [...state.filters.get(axis)].sort()) fields.append(FACET + axis, value);
  for (const job of state.pick) fields.append("pick", job);
  return `#${fields}`;
}

/** The address of this view with some fields changed. */
export function address(changes) {
  return writeState({ ...readState(), ...changes });
}

/** Goes to this view with some fields changed; `replace` leaves no step to go back to. */
export function go(changes, replace = false) {
  const target = address(changes);
  if (target === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", target);
  dispatchEvent(new Event("viewchange"));
}
