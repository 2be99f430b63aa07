// Vega-Lite charts as plain data: what of one is shown.  Pure functions; nothing here touches the page.

/** The jobs that a row of a chart's data is of. */
export function jobsOf(row) {
  return row?.jobs ?? (row?.job ? [row.job] : []);
}

/** The chart of these jobs: rows and panels of others are gone, legends and axes fit what is left; null = nothing is.
    A row that is a mean stays when one of its jobs does; `mixed` says how many of them have others, too. */
export function chartOf(spec, jobs) {
  const ours = (row) => !jobsOf(row).length || jobsOf(row).some((job) => jobs.has(job));
  const left = Object.entries(spec.datasets).map(([name, rows]) => [name, rows.filter(ours)]);
  const rows = left.flatMap(([, kept]) => kept);
  const named = new Set(left.filter(([, kept]) => kept.some((row) => jobsOf(row).length)).map(([name]) => name));
  const kept = withPanels({ ...spec, title: undefined }, named);
  if (!kept) return null;
  const mixed = new Set(rows.filter((row) => jobsOf(row).some((job) => !jobs.has(job))).map((row) => row.jobs.join()));
  const fit = changed(kept, (part) => fitted(part, rows));
  return { spec: { ...fit, datasets: Object.fromEntries(left) }, mixed: mixed.size };
}

/** Without panels none of whose data is among those named.  A panel is what has a title, or is no list of others. */
function withPanels(part, named) {
  const list = ["hconcat", "vconcat"].find((how) => part[how] && part.title === undefined);
  if (!list) return namesIn(part).some((name) => named.has(name)) ? part : null;
  const parts = part[list].map((one) => withPanels(one, named)).filter(Boolean);
  return parts.length ? { ...part, [list]: parts } : null;
}

function namesIn(part) {
  const names = [];
  changed(part, (one) => {
    if (one?.data?.name) names.push(one.data.name);
    return one;
  });
  return names;
}

/** A channel whose scale fits the rows; parts of one panel keep a common one. */
function fitted(part, rows) {
  if (part?.hconcat && part.title !== undefined) return { ...part, resolve: { scale: { y: "shared" } } };
  if (!part?.field || !Array.isArray(part.scale?.domain)) return part;
  const { domain, ...scale } = part.scale;
  if (part.type === "quantitative") {
    if (!part.axis) return part; // a colour: its scale is the figure's
    const { values: _, ...axis } = part.axis;
    return { ...part, scale, axis };
  }
  const present = new Set(rows.map((row) => row[part.field]));
  const places = [...domain.keys()].filter((place) => present.has(domain[place]));
  const range = scale.range ? { range: places.map((place) => scale.range[place]) } : {};
  return { ...part, scale: { ...scale, ...range, domain: places.map((place) => domain[place]) } };
}

/** The chart with other colours, panels below each other and the legend at the bottom where it is narrow. */
export function dressed(spec, colours, narrow) {
  const made = changed(spec, (part) => {
    if (typeof part === "string") return colours[part] ?? part;
    const { domain, range } = part?.scale ?? {};
    if (part?.legend === null && domain?.length === 1 && range) return { value: range[0] }; // else it joins a legend
    if (!narrow || !part?.hconcat || part.title !== undefined) return part;
    const { hconcat, ...rest } = part;
    return { ...rest, vconcat: hconcat };
  });
  const legend = narrow ? { orient: "bottom", columns: 1, direction: "vertical" } : {};
  const ink = { fill: colours["#000000"] ?? "#000000" };
  const style = { "guide-label": ink, "guide-title": ink, "group-title": ink };
  const { config } = made;
  return { ...made, config: { ...config, style, background: "transparent", legend: { ...config?.legend, ...legend } } };
}

/** The numbers that the chart's marks say under the pointer: fields, and rows of them. */
export function rowsSaid(spec) {
  const lists = [];
  changed(spec, (part) => {
    if (Array.isArray(part?.tooltip)) lists.push(part.tooltip);
    return part;
  });
  const fields = (lists[0] ?? []).map((said) => said.field).filter((field) => field !== "jobs" && field !== "job");
  const rows = Object.values(spec.datasets).flat();
  return { fields, rows: rows.filter((row) => fields.every((field) => field in row)) };
}

/** The value with every part of it changed, inner ones first; data stay as they are. */
function changed(value, change) {
  if (Array.isArray(value)) return value.map((one) => changed(one, change));
  if (value === null || typeof value !== "object") return change(value);
  const parts = Object.entries(value).map(([name, one]) => [name, name === "datasets" ? one : changed(one, change)]);
  return change(Object.fromEntries(parts));
}
