// What was embedded in the page, or, on a live page, what its server sent last.

const source = { content: null, blocks: null, unpacked: new Map() };

/** Takes the content out of the page's own elements. */
export function loadEmbedded() {
  install(JSON.parse(document.getElementById("content").textContent), null);
}

/** Takes new content; `blocks` replaces what is embedded. */
export function install(content, blocks) {
  source.content = prepared(content);
  source.blocks = blocks;
  source.unpacked = new Map(); // blocks that are being unpacked belong to the old content
}

export function content() {
  return source.content;
}

export function table() {
  return source.content.table;
}

/** Row of a job, or -1. */
export function rowOf(job) {
  return source.content.rows.get(job) ?? -1;
}

/** The column that a key names: an axis, a metric, or one of the fixed ones; undefined when there is none. */
export function columnOf(key) {
  return source.content.columns.get(key);
}

/** Metric columns, in the order of the tables. */
export function metrics() {
  return source.content.table.metrics;
}

/** The text of an axis in a row. */
export function axisText(axis, row) {
  return axis.values[axis.codes[row]];
}

export function axisNamed(key) {
  return source.content.columns.get(key);
}

/** The record of a row, with its layers as `layer_columns`. */
export async function recordOf(row) {
  const size = source.content.jobs_per_block;
  const block = await unpacked(`details-${Math.floor(row / size)}`);
  return block[row % size];
}

/** The outcomes of the row's single questions by protocol, or null when there are none. */
export async function answersOf(row) {
  return source.content.with_questions.includes(row) ? unpacked(`answers-${row}`) : null;
}

/** A packed block: base64 of gzip of JSON. */
export async function unpacked(name) {
  const { unpacked: kept, blocks } = source;
  if (!kept.has(name)) {
    const packed = blocks ? blocks[name] : document.getElementById(name)?.textContent;
    kept.set(name, packed === undefined ? null : JSON.parse(await inflate(packed)));
  }
  return kept.get(name);
}

/** Text from base64 of gzip. */
export async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function prepared(raw) {
  const { table: rows } = raw;
  for (const metric of rows.metrics) {
    metric.values = metric.values.map(decoded);
    metric.published = new Map(Object.entries(metric.published).map(([row, found]) => [Number(row), found]));
  }
  const columns = new Map([...rows.axes, ...rows.metrics, ...fixedColumns(rows)].map((column) => [column.key, column]));
  return { ...raw, columns, rows: new Map(rows.id.map((id, row) => [id, row])), words: null };
}

/** Columns that every page has besides axes and metrics. */
function fixedColumns(rows) {
  return [
    { key: "time", label: "time", values: (rows.steps.total ?? rows.id.map(() => null)).map(decoded) },
    { key: "ended", label: "ended (UTC)", values: rows.ended },
  ];
}

/** JSON has no infinity: it comes as a string. */
function decoded(value) {
  return typeof value === "string" ? Number(value) : value;
}
