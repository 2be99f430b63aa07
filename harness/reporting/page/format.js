// Numbers as the tables of the command line print them.

export const DASH = "–";

/** Two decimals, from 1e4 on scientific as in 1.23e4; a dash for what is missing. */
export function number(value) {
  if (value === null || value === undefined) return DASH;
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Math.abs(value) < 1e4) return value.toFixed(2);
  const [mantissa, exponent] = value.toExponential(2).split("e");
  return `${mantissa}e${Number(exponent)}`;
}

export function signed(value) {
  const text = number(value);
  return text.startsWith("-") || text === DASH ? text : `+${text}`;
}

/** 0.5 -> 50%. */
export function percent(fraction) {
  return `${Number((100 * fraction).toFixed(2))}%`;
}

/** A duration: 4.2 s, 3 min 10 s, 2 h 5 min. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** 2026-01-02T03:04:05+00:00 -> 2026-01-02 03:04. */
export function moment(text) {
  return text.slice(0, 16).replace("T", " ");
}

/** Digests and other long texts cut; the whole is for a title. */
export function shortened(text, most = 40) {
  const cut = text.replaceAll(/\b(sha256:[0-9a-f]{8})[0-9a-f]{24,}/g, "$1…");
  return cut.length > most ? `${cut.slice(0, most - 1)}…` : cut;
}

export function count(amount, one) {
  return `${amount.toLocaleString("en")} ${one}${amount === 1 ? "" : "s"}`;
}
