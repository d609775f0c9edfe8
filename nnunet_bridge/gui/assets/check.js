/* Step 2: check the cases, then convert them; each case with its outcome, its reasons and its picture. */
import { commandBox, fill, get, h, name } from "/assets/kit.js";
import { picture, pager } from "/assets/cases.js";

const mount = (root) => {
  const start = h("section");
  const results = h("section", { hidden: true });
  root.append(start, results);
  let now = null;
  let shown = "";
  let job = null;
  let outcome = "";
  let force = false;

  const ask = (command) => () => (now && now.study && now.recipe ? { command, values: { study: now.study, recipe: now.recipe, ...(command === "convert" ? { force } : {}) } } : "Choose a study first.");
  const boxes = ["check", "convert"].map((command) => commandBox(command === "check" ? "Check" : "Convert", ask(command), { mine: (one) => one.command === command && now && one.values.study === now.study }));
  const again = h("input", { type: "checkbox", onchange: (event) => { force = event.target.checked; boxes[1].refresh(); } });
  const study = h("p", {});
  start.append(h("h2", {}, "Check and convert"), study,
    h("p", { class: "soft" }, "Check reads every case and writes nothing. Convert writes the usable cases as a dataset; a second time only what is new or has changed."),
    boxes[0].box, boxes[1].box, h("label", { class: "row" }, again, "Convert finished cases again"));

  const heading = h("h2");
  const about = h("div");
  const filters = h("div", { class: "row", role: "group", "aria-label": "Filter by outcome" });
  const list = h("ul", { class: "cases" });
  const rest = h("div");
  const row = (found) => (one) => h("li", { class: "case", "data-outcome": one.outcome },
    h("div", {}, picture({ study: found.study, recipe: found.recipe || "", case: one.case, job: found.job })),
    h("div", {}, h("h4", {}, one.case, " ", h("span", { class: "outcome" }, one.outcome)), h("p", { class: "soft" }, one.split === "test" ? "for testing" : "for training"),
      one.messages.map((message) => h("p", { class: "message" }, message))));
  const tell = (found) => {
    heading.textContent = `${found.command === "check" ? "Checked" : "Converted"}: ${found.dataset}`;
    const buttons = [["", "all", found.total], ...Object.entries(found.counts).map(([word, count]) => [word, word, count])];
    fill(filters, buttons, () => buttons.map(([word, text, count]) => h("button", { type: "button", "data-outcome": word, onclick: () => { outcome = word; pages.open(1); } }, `${count} ${text}`)));
    for (const button of filters.children) button.setAttribute("aria-pressed", String(button.dataset.outcome === outcome));
    const files = Object.entries(found.files || {}).map(([kind, count]) => `${count} ${kind}`).join(", ");
    about.replaceChildren(h("p", {}, `${found.train} cases for training, ${found.test} for testing. Files: ${files}.`), ...(found.messages || []).map((message) => h("p", { class: "message" }, message)));
    rest.replaceChildren(...(found.command === "convert" && found.train ? [h("p", {}, `The dataset ${found.dataset} is in nnUNet_raw/${found.dataset} of the workspace. Next: `, h("a", { href: `#/train?dataset=${encodeURIComponent(found.dataset)}` }, "train"), ".")] : []));
  };
  const pages = pager(async (asked) => {
    const found = await get("/api/cases", { job: job.id, outcome, ...asked }).catch(() => null);
    results.hidden = !found || found.dataset === null;  // a command that failed has no cases
    if (results.hidden) return null;
    tell(found);
    list.replaceChildren(...found.cases.map(row(found)));
    return found;
  });
  results.append(heading, about, filters, pages.box, list, rest);

  return {
    update: (state) => {
      now = state.study;
      study.replaceChildren(...(now.study ? [`Study: ${name(now.study)} `] : []), h("a", { href: "#/study" }, now.study ? "change" : "Choose a study first."));
      boxes.forEach((box) => box.update(state));
      job = state.jobs.find((one) => ["check", "convert"].includes(one.command) && [0, 3, 4].includes(one.exit_code) && one.values.study === now.study);
      if (!job) results.hidden = true;
      if (job && job.id !== shown) { shown = job.id; outcome = ""; pages.open(1); }
    },
  };
};

export default { title: "Check and convert", mount };
