// Results first: who is best at each pattern and sparsity, and the matrix that papers print.  Every number of both, its
// rank and its distance to the dense model come from Python; here they are laid out.

import { chooser, element, fill, sheet, tick } from "./dom.js";
import { columnOf, content, metrics, table } from "./data.js";
import { count, DASH, number, shortened, signed } from "./format.js";
import { address, go } from "./state.js";
import { paged } from "./jobs.js";

const CARDS_PER_PAGE = 12;
const ROWS_PER_CARD = 25;
const ROWS_PER_MATRIX = 100;
const opened = new Set(); // by their first jobs, the methods whose parameters the reader looks at

/** Draws a card for every pattern and sparsity of a model: its methods, the best first. */
export function drawLeaderboard(parent, state, rows) {
  const shown = standingsOf(state, rows);
  const pruned = shown.rows.filter((row) => shown.place[row] !== null);
  const listed = pruned.length ? pruned : shown.rows;
  const order = (row) => shown.models.indexOf(shown.model[row]) * shown.places.length + shown.place[row];
  const groups = [...groupsOf(listed, order)].sort(([a], [b]) => a - b).map(([, group]) => group);
  const lead = "Bar: the part of the dense model that is kept. Bold: the best. A method opens to its parameters and jobs.";
  const [part, turn] = paged(state, groups, CARDS_PER_PAGE, "settings");
  const cards = element("div", { class: "cards" }, part.map((group) => card(state, shown, group)));
  fill(parent, top(state, shown, lead), cards, turn, notes(shown));
}

/** Draws methods by pattern and sparsity, a table a model. */
export function drawMatrix(parent, state, rows) {
  const shown = standingsOf(state, rows);
  const lead = "The stronger the colour, the more of the dense model is kept. Bold: the best of its column. A number opens its job.";
  const models = [...groupsOf(shown.rows, (row) => shown.model[row])];
  const linesOf = ([model, found]) => [...groupsOf(found, (row) => shown.label[row])].map((one) => [model, ...one]);
  const [part, turn] = paged(state, models.flatMap(linesOf), ROWS_PER_MATRIX, "rows");
  const tables = [...groupsOf(part, ([model]) => model)].map(([model, lines]) => matrix(shown, model, lines));
  fill(parent, top(state, shown, lead), tables, turn, notes(shown));
}

/** The standings that have one of these jobs, and a number under the chosen metric. */
function standingsOf(state, rows) {
  const { standings } = content();
  const key = Object.hasOwn(standings.metrics, state.metric) ? state.metric : standings.chosen;
  const numbers = standings.metrics[key];
  const wanted = new Set(rows);
  const has = (row) => numbers.rank[row] !== null && standings.jobs[row].some((job) => wanted.has(job));
  const found = numbers ? [...standings.label.keys()].filter(has) : [];
  return { ...standings, key, numbers, metric: columnOf(key), rows: found, models: [...new Set(standings.model)] };
}

function groupsOf(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(item);
  }
  return groups;
}

function top(state, shown, lead) {
  const options = metrics().map(({ key, label, higher }) => [key, `${label} ${higher ? "↑" : "↓"}`]);
  const failed = table().error.filter((error) => error !== null).length;
  const href = address({ view: "jobs", page: "", filters: new Map([["status", new Set(["failed"])]]) });
  return element(
    "div",
    { class: "actions" },
    options.length ? chooser("metric", "metric", options, shown.key, (metric) => go({ metric, page: "" })) : null,
    failed ? element("a", { href, id: "failed" }, `${count(failed, "job")} failed`) : null,
    element("span", { class: "quiet lead" }, shown.rows.length ? lead : "No selected job has this number."),
  );
}

function notes({ numbers, notes: general }) {
  const said = [...general, ...(numbers?.notes ?? [])];
  return said.length ? element("ul", { class: "notes" }, said.map((note) => element("li", {}, note))) : null;
}

/** The best first; what has no number last. */
function ordered({ numbers, metric }, group) {
  const value = (row) => numbers.value[row] ?? Number.NaN;
  const last = (row) => Number.isNaN(value(row));
  const sign = metric.higher ? -1 : 1;
  return group.toSorted((a, b) => last(a) - last(b) || (value(a) === value(b) ? a - b : sign * (value(a) - value(b))));
}

function card(state, shown, group) {
  const { model, place, places, models, numbers, key, metric } = shown;
  const [first] = group;
  const title = (places[place[first]] ?? "dense") + (models.length > 1 ? ` · ${model[first]}` : "");
  const dense = shown.rows.filter((row) => place[row] === null && model[row] === model[first]);
  const rivals = ordered(shown, group.filter((row) => place[row] !== null));
  const lines = [...dense, ...rivals.slice(0, ROWS_PER_CARD)];
  const printed = lines.some((row) => numbers.published[row]);
  const heads = ["method", `${metric.unit} ${metric.higher ? "↑" : "↓"}`, "±", "to dense", "kept", ...(printed ? ["published"] : [])];
  const head = heads.map((text, at) => element("th", { scope: "col", class: at ? "number" : null }, text));
  const jobs = new Map(["model", "pattern", "sparsity"].map((axis) => [axis, new Set([shown[axis][first]])]));
  const all = { href: address({ view: "jobs", sort: `${metric.higher ? "-" : ""}${key}`, page: "", filters: jobs }) };
  return element(
    "section",
    { class: "card", "aria-label": title },
    element("h3", {}, title),
    sheet(`${metric.label}, ${title}`, head, lines.map((row) => line(state, shown, row, printed))),
    rivals.length > ROWS_PER_CARD ? element("a", all, `all ${rivals.length.toLocaleString("en")}`) : null,
  );
}

function line(state, shown, row, printed) {
  const { numbers, place } = shown;
  const { error, distance, kept, published } = numbers;
  const part = kept[row] === null ? null : `${Math.round(100 * kept[row])} %`;
  const bar = { class: "bar", role: "img", "aria-label": `${part} kept`, title: part, style: `--kept:${kept[row]}` };
  return element(
    "tr",
    place[row] === null ? { class: "dense" } : {},
    element("th", { scope: "row" }, who(state, shown, row)),
    element("td", { class: "number" }, written(numbers, row)),
    element("td", { class: "number quiet" }, error[row] === null ? "" : number(error[row])),
    element("td", { class: "number" }, place[row] === null ? "" : distance[row] === null ? DASH : signed(distance[row])),
    element("td", {}, part === null ? DASH : element("span", bar)),
    printed ? element("td", { class: "number", title: published[row]?.source }, published[row]?.text ?? "") : null,
  );
}

/** A number with its marks, the best in bold. */
function written({ value, marks, rank }, row) {
  const text = number(value[row]) + (marks[row] ?? "");
  return rank[row] === 1 ? element("b", {}, text) : text;
}

/** The method; opened, its parameters and its jobs, which can be ticked to be compared. */
function who(state, { label, method, params, jobs }, row) {
  const name = [method[row], element("span", { class: "quiet" }, label[row].slice(method[row].length))];
  const job = (place) => {
    const id = table().id[place];
    const others = state.pick.filter((other) => other !== id);
    const picked = (on) => go({ pick: on ? [...others, id] : others }, true);
    const box = tick(`pick-${id}`, "compare", state.pick.includes(id), picked);
    return element("li", {}, element("a", { href: address({ view: "job", job: id }), id: `open-${id}` }, id), " ", box);
  };
  const first = table().id[jobs[row][0]];
  const show = () => details.append(element("p", {}, params[row]), element("ul", {}, jobs[row].map(job)));
  const ontoggle = () => {
    if (details.open && details.childElementCount === 1) show();
    opened[details.open ? "add" : "delete"](first);
  };
  const summary = element("summary", { title: label[row], id: `who-${first}` }, name);
  const details = element("details", { class: "who", open: opened.has(first), ontoggle }, summary);
  if (opened.has(first)) show();
  return details;
}

function matrix(shown, model, lines) {
  const has = (at) => lines.some(([, , rows]) => rows.some((row) => shown.place[row] === at));
  const found = [...shown.places.keys()].filter(has);
  const used = found.length ? found : [null];
  const head = (at) => element("th", { scope: "col", class: "number" }, shown.places[at] ?? "dense");
  const cell = (row) => {
    if (row === undefined) return element("td", { class: "number quiet" }, DASH);
    const ids = shown.jobs[row].map((place) => table().id[place]);
    const href = address(ids.length === 1 ? { view: "job", job: ids[0] } : { view: "compare", pick: ids });
    const title = shown.numbers.published[row] ? `published ${shown.numbers.published[row].text}` : null;
    const kept = shown.numbers.kept[row];
    const style = kept === null ? null : `--kept:${kept}`;
    return element("td", { class: "number heat", style, title }, element("a", { href }, written(shown.numbers, row)));
  };
  const row = ([, label, rows]) => {
    const at = (place) => rows.find((one) => shown.place[one] === place || shown.place[one] === null);
    const head = element("th", { scope: "row", title: label }, shortened(label, 60));
    return element("tr", {}, head, used.map((place) => cell(at(place))));
  };
  const caption = `${shown.metric.label}: methods by pattern and sparsity, ${model}`;
  return element(
    "section",
    { class: "matrix" },
    shown.models.length > 1 ? element("h3", {}, model) : null,
    sheet(caption, [element("th", { scope: "col" }, "method"), ...used.map(head)], lines.map(row)),
  );
}
