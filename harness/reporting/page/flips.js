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
  asked.index.forEach((index, place) => {
    const there = places ? places.of.get(`${index} ${asked.content[place]}`) : place;
    if (there === undefined || before.right[place] === "." || after.right[there] === ".") return;
    const [was, is] = [before.right[place] === "1", after.right[there] === "1"];
    result.questions++;
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
  return { ...result, p: mcnemar(result.lost, result.won) };
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
