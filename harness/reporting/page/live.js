// A live page asks its server what is going on, and takes new records when there are some.

import { element, fill } from "./dom.js";
import { content, install } from "./data.js";
import { count, duration } from "./format.js";

const EVERY_MS = 2000;

/** Asks for news as long as the page is open; `onContent` is called when there are new records. */
export function watch(parent, onContent) {
  let { version } = content(); // of what the page came with: a job may have ended since
  const ask = async () => {
    try {
      const news = await (await fetch("live.json")).json();
      if (news.version !== version) {
        const { content, blocks } = await (await fetch("content.json")).json();
        install(content, blocks);
        onContent();
      }
      version = news.version;
      fill(parent, progress(news));
    } catch {
      fill(parent, element("p", { class: "warning" }, "The server does not answer; what is shown may be old."));
    }
    setTimeout(ask, EVERY_MS);
  };
  ask();
}

function progress({ sweeps, running }) {
  if (!sweeps.length && !running.length) return element("p", { class: "quiet" }, "No sweep is running.");
  return [sweeps.map(sweepLine), running.length ? element("ul", { class: "running" }, running.map(runningLine)) : null];
}

function sweepLine({ name, done, failed, running, left, total, seconds_left: seconds, alive }) {
  const told = [
    `${done} of ${total} done`,
    failed ? `${failed} failed` : "",
    running ? `${running} running` : "",
    left ? `${left} left` : "",
    !alive && left + running ? "stopped" : "",
    alive && left + running ? (seconds === null ? "time to go unknown" : `about ${duration(seconds)} to go`) : "",
  ];
  return element(
    "div",
    { class: "sweep" },
    element(
      "label",
      {},
      `${name}: ${told.filter(Boolean).join(", ")}`,
      element("progress", { max: total, value: done + failed }),
    ),
  );
}

function runningLine({ job_id: job, step, done, total, seconds, host }) {
  const part = step ? `${step}${total ? ` ${done}/${total}` : ""}` : "starting";
  return element(
    "li",
    {},
    element("code", {}, job),
    ` ${part}, ${duration(seconds)} so far${host ? `, on ${host}` : ""}`,
  );
}

/** How many jobs a live page has, for its title. */
export function titled(jobs) {
  return `Prunebench: ${count(jobs, "job")}`;
}
