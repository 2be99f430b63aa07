// Which single questions two jobs answer differently.

import { unpacked } from "./data.js";

/** For every protocol and metric that both jobs answered: counts, McNemar's p, and the flipped questions, those whose
    margin changed most first. */
export async function flipsBetween(before, after) {
  const found = [];
  for (const one of before) {
    const other =
      after.find((task) => task.protocol === one.protocol) ??
      after.find((task) => unlimited(task.protocol) === unlimited(one.protocol));
    if (!other) continue;
    const asked = await unpacked(one.asked);
    const places = one.asked === other.asked ? null : placesOf(await unpacked(other.asked));
    for (const metric of Object.keys(one.metrics))
      if (other.metrics[metric])
        found.push({
          task: one.task,
          protocol: one.protocol,
          metric,
          ...counted(asked, places, one.metrics[metric], other.metrics[metric]),
        });
  }
  return found;
}

/** The same questions under the same version of the task are the same measurement, however many were asked. */
function unlimited(protocol) {
  return protocol.replace(/:first\d+/, "");
}

/** Where each question stands in the other job's list. */
function placesOf(asked) {
  return { asked, of: new Map(asked.index.map((index, place) => [`${index} ${asked.content[place]}`, place])) };
}

function counted(asked, places, before, after) {
  const result = { questions: 0, bothRight: 0, lost: 0, won: 0, changed: 0, flipped: [] };
  const pairs = [];
  asked.index.forEach((index, place) => {
    const there = places ? places.of.get(`${index} ${asked.content[place]}`) : place;
    if (there === undefined || before.right[place] === "." || after.right[there] === ".") return;
    const [was, is] = [before.right[place] === "1", after.right[there] === "1"];
    result.questions++;
    pairs.push([choice(before, place).margin, choice(after, there).margin]);
    if (was && is) result.bothRight++;
    if (before.chosen[place] !== after.chosen[there]) result.changed++;
    if (was === is) return;
    result[was ? "lost" : "won"]++;
    result.flipped.push({
      index,
      content: asked.content[place],
      text: asked.text?.[place] ?? null,
      gold: String(asked.gold[place]),
      lost: was,
      before: choice(before, place),
      after: choice(after, there),
    });
  });
  result.flipped.sort((a, b) => change(b) - change(a) || a.index - b.index);
  return {
    ...result,
    p: mcnemar(result.lost, result.won),
    interval: result.questions ? interval(result.lost, result.won, result.questions) : [0, 0],
    margins: {
      before: spread(pairs.map(([was]) => was)),
      after: spread(pairs.map(([, is]) => is)),
      change: spread(pairs.map(([was, is]) => (was === null || is === null ? null : is - was))),
    },
  };
}

/** Mean and 5, 25, 50, 75 and 95 % quantiles of the numbers among these; null when there is none. */
function spread(values) {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const quantile = (share) => {
    const place = share * (sorted.length - 1);
    const [below, above] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
    return below + (above - below) * (place % 1);
  };
  return [sorted.reduce((sum, value) => sum + value, 0) / sorted.length, ...[0.05, 0.25, 0.5, 0.75, 0.95].map(quantile)];
}

function choice(answers, place) {
  const margin = answers.margin[place];
  return { chosen: answers.chosen[place], margin: margin === null ? null : margin / answers.scale };
}

function change({ before, after }) {
  return before.margin === null || after.margin === null ? -1 : Math.abs(after.margin - before.margin);
}

/** Two-sided exact McNemar test of `lost` against `won` flips: how likely so uneven a split is if both were equally
    likely.  1 when nothing flipped. */
export function mcnemar(lost, won) {
  const n = lost + won;
  let logTerm = -n * Math.LN2,
    tail = 0;
  for (let k = 0; k <= Math.min(lost, won); k++) {
    tail += Math.exp(logTerm);
    logTerm += Math.log(n - k) - Math.log(k + 1);
  }
  return Math.min(1, 2 * tail);
}

/** 95 % percentile interval of the difference in accuracy, as fractions, over all resamples of the questions: so many
    flips are binomial, and of these those that are won. */
export function interval(lost, won, questions) {
  if (!(lost + won)) return [0, 0];
  const chance = new Float64Array(2 * questions + 1);
  const logFactorial = new Float64Array(questions + 1);
  for (let k = 2; k <= questions; k++) logFactorial[k] = logFactorial[k - 1] + Math.log(k);
  const times = (count, log) => (count ? count * log : 0);
  const binomial = (k, n, share) =>
    Math.exp(
      logFactorial[n] -
        logFactorial[k] -
        logFactorial[n - k] +
        times(k, Math.log(share)) +
        times(n - k, Math.log1p(-share)),
    );
  for (let flips = 0; flips <= questions; flips++) {
    const weight = binomial(flips, questions, (lost + won) / questions);
    if (weight > 1e-15)
      for (let wins = 0; wins <= flips; wins++)
        chance[2 * wins - flips + questions] += weight * binomial(wins, flips, won / (lost + won));
  }
  const end = (share) => {
    let [place, sum] = [0, chance[0]];
    while (sum < share && place < 2 * questions) sum += chance[++place];
    return (place - questions) / questions;
  };
  return [end(0.025), end(0.975)];
}
