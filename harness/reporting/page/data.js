// What was embedded in the page, or, on a live page, what its server sent last.

const source = { content: null, blocks: null, unpacked: new Map() };

/** Takes the content out of the page's own elements. */
export function loadEmbedded() {
  install(JSON.parse(document.getElementById("content").textContent), null);
}

/** Takes new content; `blocks` replaces what is embedded. */
export function install(raw, blocks) {
  const { table: rows } = raw;
  const seconds = rows.seconds.map(decoded);
  for (const metric of rows.metrics) metric.values = metric.values.map(decoded);
  for (const numbers of Object.values(raw.standings.metrics))
    for (const name of ["value", "error", "distance"]) numbers[name] = numbers[name].map(decoded);
  const fixed = [
    { key: "time", label: "time", says: "wall time of the whole job", values: seconds },
    { key: "ended", label: "ended (UTC)", says: "when the job ended", values: rows.ended },
  ];
  const columns = new Map([...rows.axes, ...rows.metrics, ...fixed].map((column) => [column.key, column]));
  source.content = { ...raw, columns, rows: new Map(rows.id.map((id, row) => [id, row])), words: null };
  source.blocks = blocks;
  source.unpacked = new Map(); // blocks that are being unpacked belong to the old content
}

/** JSON has no infinity: it comes as a string. */
function decoded(value) {
  return typeof value === "string" ? Number(value) : value;
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

/** What the view of one job shows of a row. */
export async function documentOf(row) {
  const size = source.content.jobs_per_block;
  const block = await unpacked(`details-${Math.floor(row / size)}`);
  return block[row % size];
}

/** A packed block: base64 of gzip of JSON; null when there is none of this name. */
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
