/* Step 2: check the cases, then convert them; each with its outcome, reasons and picture. */
import { picture } from "/assets/cases.js";
import { commandBox, counted, get, name, pager, render, soft } from "/assets/kit.js";
import { h } from "/assets/shared.js";

const message = (text) => h("p.message", text);
const row = ({ study, recipe, job }, one) => h("li.case", { "data-outcome": one.outcome },
  h("div", picture({ study, recipe: recipe || "", case: one.case, job })),
  h("div", h("h4", one.case, " ", h("span.outcome", one.outcome)),
    soft(one.split === "test" ? "for testing" : "for training"), one.messages.map(message)));

const mount = (root) => {
  const study = h("p"), about = h("div"), list = h("ul.cases");
  let now = {}, job = null, shown = "", outcome = "";

  const boxes = ["Check", "Convert"].map((label) => {
    const command = label.toLowerCase();
    return commandBox(label, () => {
      const { study: folder, recipe } = now;
      return folder && recipe ? { command, values: { study: folder, recipe } } : "Choose a study first.";
    }, { mine: (one) => one.command === command && one.values.study === now.study });
  });

  const tell = (found) => {
    const { command, dataset, total, counts, files, messages, train, test } = found;
    const filters = [["", "all", total], ...Object.entries(counts).map(([word, count]) => [word, word, count])];
    const choose = (word) => () => { outcome = word; pages.open(1); };
    const kinds = Object.entries(files || {}).map(([kind, count]) => `${count} ${kind}`).join(", ");
    const next = h("a", { href: `#/train?dataset=${encodeURIComponent(dataset)}` }, "train");
    render(about, h("h2", `${command === "check" ? "Checked" : "Converted"}: ${dataset}`),
      h("p", `${counted(train, "case")} for training, ${test} for testing. Files: ${kinds}.`),
      command === "convert" && train > 0 && h("p", "Next: ", next, "."), (messages || []).map(message),
      h("div.row", { role: "group", "aria-label": "Filter by outcome" }, filters.map(([word, text, count]) => (
        h("button", { "aria-pressed": String(word === outcome), onclick: choose(word) }, `${count} ${text}`)))));
    render(list, found.cases.map((one) => row(found, one)));
  };
  const pages = pager(async (asked) => {
    const found = await get("/api/cases", { job: job.id, outcome, ...asked }).catch(() => null);
    results.hidden = !found || found.dataset === null; // a command that failed has no cases
    if (!results.hidden) tell(found);
    return results.hidden ? null : found;
  });
  const results = h("section", { hidden: true }, about, pages.box, list);
  root.append(h("section", h("h2", "Check and convert"), study,
    soft("Check reads every case and writes nothing. Convert writes the usable cases as a dataset; a second time only "
      + "what is new or has changed."),
    boxes.map((one) => one.box)), results);

  const update = (state) => {
    now = state.study;
    render(study, now.study && `Study: ${name(now.study)} `,
      h("a", { href: "#/study" }, now.study ? "change" : "Choose a study first."));
    boxes.forEach((one) => one.update(state));
    job = state.jobs.find((one) => ["check", "convert"].includes(one.command) && [0, 3, 4].includes(one.exit_code)
      && one.values.study === now.study);
    if (!job) results.hidden = true;
    else if (job.id !== shown) { shown = job.id; outcome = ""; pages.open(1); }
  };
  return { update };
};

export default { title: "Check and convert", mount };
