// Draws the view that the address names, again at every change of it.

import { element, fill } from "./dom.js";
import { content, loadEmbedded, table } from "./data.js";
import { count } from "./format.js";
import { address, go, readState } from "./state.js";
import { selected } from "./selection.js";
import { drawFacets } from "./facets.js";
import { drawFigures } from "./figures.js";
import { drawJobs } from "./jobs.js";
import { drawLeaderboard, drawMatrix } from "./overview.js";
import { drawJob } from "./job.js";
import { drawCompare } from "./compare.js";
import { titled, watch } from "./live.js";

const VIEWS = [
  ["", "Leaderboard", drawLeaderboard],
  ["matrix", "Matrix", drawMatrix],
  ["tradeoffs", "Trade-offs", drawFigures],
  ["layers", "Layers", drawFigures],
  ["compare", "Compare", drawCompare],
  ["jobs", "Jobs", drawJobs],
];
const dark = matchMedia("(prefers-color-scheme: dark)");
const folding = matchMedia("(max-width: 60rem)");
const place = (id) => document.getElementById(id);

/** Draws everything. */
function drawAll() {
  const state = readState();
  document.documentElement.dataset.theme = state.theme || (dark.matches ? "dark" : "light");
  place("theme").value = state.theme;
  if (place("search").value !== state.q) place("search").value = state.q;
  const { rows, counts } = selected(state);
  const filtered = state.view !== "job" && state.view !== "compare";
  document.body.classList.toggle("filtered", filtered);
  drawTabs(state);
  const part = rows.length === table().id.length ? "" : `${rows.length.toLocaleString("en")} of `;
  place("said").textContent = part + count(table().id.length, "job");
  place("all").hidden = !state.filters.size && !state.q;
  if (filtered) drawFacets(place("facets"), state, counts);
  const [, , draw] = VIEWS.find(([view]) => view === state.view) ?? [null, "", drawJob];
  draw(place("view"), state, rows);
  drawProblems();
}

function drawTabs(state) {
  const tab = ([view, text]) => {
    const current = view === (state.view === "job" ? "jobs" : state.view) ? "page" : null;
    const named = { href: address({ view, job: "", page: "" }), id: `tab-${view || "leaderboard"}`, "aria-current": current };
    return element("a", named, view === "compare" && state.pick.length ? `${text} (${state.pick.length})` : text);
  };
  fill(place("tabs"), VIEWS.map(tab));
}

function drawProblems() {
  const said = content().problems.map((text) => element("p", { class: "warning" }, text));
  fill(place("problems"), said);
}

function start() {
  loadEmbedded();
  document.title = titled(table().id.length);
  place("search").addEventListener("input", (event) => go({ q: event.target.value, page: "" }, true));
  place("theme").addEventListener("change", (event) => go({ theme: event.target.value }, true));
  place("all").addEventListener("click", () => go({ filters: new Map(), q: "", page: "" }));
  place("skip").addEventListener("click", (event) => {
    event.preventDefault();
    place("main").focus();
  });
  folding.addEventListener("change", () => {
    place("filters").open = !folding.matches;
  });
  place("filters").open = !folding.matches;
  for (const change of ["viewchange", "popstate", "hashchange"]) addEventListener(change, drawAll);
  dark.addEventListener("change", drawAll);
  drawAll();
  if (document.documentElement.dataset.live)
    watch(place("live"), () => {
      document.title = titled(table().id.length);
      drawAll();
    });
  performance.mark("prunebench-drawn");
}

start();
