/* Step 3: plan, train, watch, and the pages of the results. */
import { choosePath, commandBox, duration, field, fileAddress, fill, get, h, name as nameOf, number, post, select, server } from "/assets/kit.js";

const NS = "http://www.w3.org/2000/svg";
const svg = (tag, attributes, ...children) => {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const ticks = (low, high) => {
  const raw = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, place) => Number(((first + place) * step).toPrecision(12)));
};

/* A figure of lines over the epochs; `lines` are [name, class, values]. */
const figure = (title, epochs, lines, zero) => {
  const shown = lines.flatMap(([, , values]) => values).filter((value) => value !== null);
  if (zero) shown.push(0);
  if (shown.length < 1 + zero) return null;
  const [left, right, top, bottom] = [48, 390, 10, 170];
  const [least, most] = [Math.min(...shown), Math.max(...shown)];
  const room = 0.08 * (most - least) || 0.05 * Math.abs(most) || 0.5;
  const [low, high, last] = [zero ? 0 : least - room, most + room, Math.max(1, epochs[epochs.length - 1])];
  const x = (epoch) => left + (right - left) * (epoch / last);
  const y = (value) => bottom - (bottom - top) * ((value - low) / (high - low));
  const text = (words, at, height, anchor) => svg("text", { x: at, y: height, "text-anchor": anchor }, words);
  const path = (values) => values.reduce((words, value, place) => (value === null ? words : `${words}${words && values[place - 1] !== null ? "L" : "M"}${x(epochs[place]).toFixed(1)} ${y(value).toFixed(1)}`), "");
  const ends = lines.map(([name, , values]) => `${name} ${number(values[values.length - 1])}`).join(", ");
  const picture = svg("svg", { viewBox: "0 0 400 212", role: "img", "aria-label": `${title} after epoch ${last + 1}: ${ends}` },
    ...ticks(low, high).flatMap((tick) => [svg("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }), text(String(tick), left - 6, y(tick) + 4, "end")]),
    ...ticks(0, last).filter(Number.isInteger).map((tick) => text(String(tick), x(tick), bottom + 17, "middle")),
    text("epoch", (left + right) / 2, bottom + 34, "middle"),
    ...lines.map(([name, css, values]) => svg("path", { class: css, d: values.length > 1 ? path(values) : `${path(values)}h1` }, svg("title", {}, name))));
  const keys = lines.map(([name, css, values]) => h("span", { class: "line-key" }, svg("svg", { class: "key", viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("path", { class: css, d: "M0 7H14" })), ` ${name} ${number(values[values.length - 1])}`));
  return h("figure", {}, h("figcaption", {}, title), picture, h("p", { class: "soft keys" }, keys));
};

/* Ask before a long training; resolves to true if it shall start. */
const agree = (sentence) => new Promise((resolve) => {
  const dialog = h("dialog", { class: "chooser", "aria-label": "Start a long training" }, h("h2", {}, "Start it?"), h("p", {}, sentence),
    h("div", { class: "row" }, h("button", { type: "button", class: "primary", onclick: () => dialog.close("yes") }, "Start it"), h("button", { type: "button", onclick: () => dialog.close() }, "Cancel")));
  dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
  document.body.append(dialog);
  dialog.showModal();
});

const page = (title, file) => h("div", {}, h("p", { class: "row" },
  h("a", { href: fileAddress(file.path), target: "_blank", rel: "noopener" }, "Open in a tab"), h("a", { href: fileAddress(file.path, true) }, "Save")),
h("iframe", { class: "result", title, src: fileAddress(file.path) }));

/* A page that is loaded when it is opened. */
const folded = (title) => {
  const place = h("div");
  const box = h("details", { hidden: true }, h("summary", {}, title), place);
  let file = null;
  const show = () => { if (box.open && file) fill(place, file, () => page(title, file)); };
  box.addEventListener("toggle", show);
  return { box, update: (found) => { file = found; box.hidden = !found; show(); } };
};

const isOf = (job, dataset) => job.values && (job.values.dataset === dataset.name || String(job.values.dataset) === String(dataset.number));
const list = (value, usual) => (value === undefined || value === null || value.length === 0 ? usual : [value].flat().map(String));
const trains = (job, dataset, run) => {
  if (job.state !== "running" || job.command !== "train" || !isOf(job, dataset)) return false;
  const { values } = job;
  const folds = list(values.fold, ["0"]);
  return list(values.configuration, [run.configuration]).includes(run.configuration)
    && (folds.includes(String(run.fold)) || (folds.includes("all5") && run.fold !== "all"))
    && (values.model || "nnunet") === run.model && (run.model.includes("__") || (values.budget || "full") === run.budget);
};
const again = (run, dataset, device) => ({
  dataset, configuration: [run.configuration], fold: [String(run.fold)], model: run.model, budget: run.model.includes("__") ? "" : run.budget,
  repeat: run.repeat ? run.repeat + 1 : "", device,
});
const mean = (values) => { const known = values.filter((value) => value !== null); return known.length ? known.reduce((a, b) => a + b) / known.length : null; };

const COLUMNS = { state: "State", epoch: "Epoch", loss: "Loss: training / validation", pseudo: "Pseudo-Dice", left: "Left", dice: "Dice" };

/* One run: a row, and below it reason, curves and page. */
const runRow = (actions) => {
  const cells = { run: h("th", { scope: "row" }), ...Object.fromEntries(Object.entries(COLUMNS).map(([key, words]) => [key, h("td", { "data-name": words })])) };
  const more = h("button", { type: "button", "aria-expanded": "false", onclick: () => open(detail.hidden) }, "Details");
  const stop = h("button", { type: "button", onclick: () => actions.stop(now, say) }, "Stop");
  const resume = h("button", { type: "button", onclick: () => actions.resume(now, say) }, "Go on");
  const problem = h("p", { class: "error", role: "alert", hidden: true });
  const reason = h("p", { class: "error", hidden: true });
  const curves = h("div", { class: "figures wide" });
  const record = folded("Page of this run");
  const row = h("tr", {}, Object.values(cells), h("td", { class: "acts" }, stop, resume, more));
  const detail = h("tr", { class: "detail", hidden: true }, h("td", { colSpan: 8 }, curves, record.box));
  const trouble = h("tr", { class: "detail", hidden: true }, h("td", { colSpan: 8 }, reason, problem));
  let now = null;
  let drawn = "";
  const say = (text) => { problem.textContent = text || ""; problem.hidden = !text; trouble.hidden = reason.hidden && problem.hidden; };
  const draw = async () => {
    const key = `${now.folder} ${now.epochs} ${now.state}`;
    if (detail.hidden || drawn === key) return;
    drawn = key;
    const found = await get("/api/curve", { dataset: actions.dataset(), folder: now.folder }).catch(() => null);
    if (!found || !found.epochs.length) { curves.replaceChildren(h("p", { class: "soft" }, "No epoch has ended yet.")); return; }
    curves.replaceChildren(...[
      figure("Loss", found.epochs, [["training", "line dashed l0", found.train_loss], ["validation", "line l1", found.val_loss]], false),
      figure("Pseudo-Dice", found.epochs, [["mean of the structures", "line l2", found.pseudo_dice]], true),
    ].filter(Boolean));
  };
  const open = (wanted) => { detail.hidden = !wanted; more.setAttribute("aria-expanded", String(wanted)); draw(); };
  const update = (run, job) => {
    now = run;
    const seed = run.repeat ? `, repeat ${run.repeat}` : "";
    fill(cells.run, run.folder, () => [`${run.configuration}, fold ${run.fold}${seed}`, h("small", {}, `${run.model}, ${run.budget}`)]);
    const source = run.job ? `job ${run.job}` : (run.state === "running" && !job ? "by another command" : "");
    fill(cells.state, [run.state, source], () => [h("span", { class: `state ${run.state}` }, run.state), source ? h("small", {}, source) : null]);
    cells.epoch.textContent = run.epochs_planned ? `${run.epochs} of ${run.epochs_planned}` : String(run.epochs || "–");
    cells.loss.textContent = run.train_loss === null ? "–" : `${number(run.train_loss)} / ${number(run.val_loss)}`;
    cells.pseudo.textContent = number(mean(Object.values(run.dice_per_structure)));
    cells.pseudo.title = Object.entries(run.dice_per_structure).map(([name, dice]) => `${name} ${number(dice)}`).join("\n");
    cells.left.textContent = duration(run.seconds_left) || "–";
    cells.dice.textContent = number(run.mean_dice);
    stop.hidden = !job || run.state !== "running";
    resume.hidden = job || !["stopped", "failed", "planned"].includes(run.state);
    resume.textContent = run.state === "failed" ? "Try again" : "Go on";
    for (const button of [stop, resume, more]) button.setAttribute("aria-label", `${button.textContent}: ${cells.run.textContent}`);
    reason.textContent = run.reason;
    reason.hidden = !run.reason;
    trouble.hidden = reason.hidden && problem.hidden;
    record.update(run.page && { path: run.page, time: run.mean_dice });
    draw();
  };
  return { rows: [row, trouble, detail], update };
};

export default {
  title: "Train",
  mount(root, values) {
    const picked = { dataset: values.dataset || "", model: "nnunet", budget: "", fold: "0", repeat: 1, device: "auto", on: "local", recipe: "", configuration: null, nested: false };
    let choices = null;
    let asked = "";
    let takes = null;
    let agreedTo = "";
    let timer = 0;
    const dataset = () => (server.state ? server.state.datasets.find((each) => each.name === picked.dataset) : null);
    const model = () => choices.models.find((each) => each.name === picked.model);
    const planned = () => (choices && choices.planned[model().planner] ? choices.planned[model().planner].filter((each) => model().configurations.includes(each)) : []);
    const configurations = () => planned().filter((each) => !picked.configuration || picked.configuration.includes(each));
    const training = () => ({
      dataset: picked.dataset, configuration: configurations(), fold: [picked.fold], model: picked.model, budget: picked.budget,
      repeat: picked.repeat > 1 ? picked.repeat : "", device: picked.device, on: picked.on === "local" ? "" : picked.on, recipe: picked.on === "local" ? "" : picked.recipe,
    });

    const which = h("select", { onchange: (event) => { picked.dataset = event.target.value; choices = null; picked.configuration = null; renew(); } });
    const none = h("p", { class: "lead" }, "There is no dataset yet. ", h("a", { href: "#/check" }, "Check and convert a study"), " first.");
    const form = h("div", { class: "form" });
    const boxes = h("fieldset", { class: "field" });
    const caveat = h("p", { class: "soft" });
    const estimate = h("div", { class: "estimate", role: "status", "aria-live": "polite" });
    const plan = commandBox("Plan", () => {
      if (!dataset()) return "Choose a dataset.";
      const planner = choices && model().planner;
      return { command: "plan", values: { dataset: picked.dataset, planner: planner === "default" ? "" : planner } };
    }, { mine: (job) => job.command === "plan" && dataset() && isOf(job, dataset()), onDone: () => { choices = null; renew(); } });
    const planning = h("details", { class: "planning" }, h("summary", {}, "Plan: patch and batch size, preprocessing, folds"), h("p", { class: "soft" }, "nnU-Net adapts its networks to the data and prepares the images. Plan again after a change of the dataset."), plan.box);
    const train = commandBox("Train", () => {
      if (!dataset()) return "Choose a dataset.";
      if (!choices) return "Reading the plans.";
      if (!planned().length) return `Plan it first${model().planner === "default" ? "" : `: ${picked.model} needs the planner ${model().planner}`}.`;
      if (!configurations().length) return "Choose a configuration.";
      const long = takes && takes.question && takes.question === agreedTo;
      return { command: "train", values: { ...training(), yes: Boolean(long) } };
    }, {
      mine: (job) => job.command === "train" && dataset() && isOf(job, dataset()),
      agreed: async () => { if (takes && takes.question && !(await agree(takes.question))) return false; agreedTo = takes ? takes.question : ""; return true; },
    });

    const buildForm = () => {
      const pick = (key) => (value) => { picked[key] = value; showForm(); };
      const folds = [...Array.from({ length: choices.folds }, (_, fold) => [String(fold), `fold ${fold}`]), ["all5", `all ${choices.folds} folds`], ["all", "all cases, none held out"]];
      const recipe = h("button", { type: "button", onclick: async () => { picked.recipe = await choosePath("Choose a recipe with the part [slurm]", { endings: [".toml"] }) || picked.recipe; showForm(); } });
      const repeat = h("input", { type: "number", min: "1", max: "20", value: "1", oninput: (event) => { picked.repeat = Math.max(1, Math.min(20, Math.round(Number(event.target.value)) || 1)); showForm(); } });
      const slurm = h("span", { class: "field", hidden: picked.on === "local" }, h("span", {}, "Recipe with [slurm]"), recipe);
      form.replaceChildren(
        boxes,
        field("Folds", select(folds, picked.fold, pick("fold"))),
        field("Budget", select(choices.budgets.map((each) => each.name), picked.budget, pick("budget"))),
        field("Model", select(choices.models.map((each) => [each.name, each.planner === "default" ? each.name : `${each.name} (planner ${each.planner})`]), picked.model, pick("model"))),
        field("Trainings per fold", repeat),
        field("Device", select(choices.devices, picked.device, pick("device"))),
        choices.slurm ? field("Where", select([["local", "this machine"], ["slurm", "Slurm cluster"]], picked.on, (value) => { picked.on = value; slurm.hidden = value === "local"; showForm(); })) : "",
        choices.slurm ? slurm : "",
      );
      form.recipe = recipe;
    };
    const showForm = () => {
      const left = choices.folds && choices.budgets.find((each) => each.name === picked.budget);
      caveat.textContent = left && left.caveat ? `${left.caveat[0].toUpperCase()}${left.caveat.slice(1)}.` : (choices.folds ? "" : choices.failure);
      form.hidden = !choices.folds;
      form.recipe.textContent = picked.recipe ? nameOf(picked.recipe) : "Choose";
      fill(boxes, [planned(), configurations()], () => [h("legend", {}, "Configurations"), ...planned().map((each) => h("label", { class: "tick" },
        h("input", { type: "checkbox", value: each, checked: configurations().includes(each), onchange: () => { picked.configuration = [...boxes.querySelectorAll("input:checked")].map((box) => box.value); train.refresh(); ask(); } }), ` ${each}`)), planned().length ? null : h("p", { class: "soft" }, choices.failure || "Not planned yet.")]);
      planning.open = planning.open || !planned().length;
      plan.refresh();
      train.refresh();
      ask();
    };
    const ask = () => {
      clearTimeout(timer);
      timer = setTimeout(async () => {
        takes = null;
        const body = training();
        if (!body.configuration.length) { estimate.replaceChildren(); return; }
        try {
          takes = await post("/api/forecast", { ...body, on: picked.on });
          fill(estimate, takes, () => [h("p", {}, takes.sentence), ...takes.warnings.filter((words) => words !== caveat.textContent).map((words) => h("p", { class: "error" }, words))]);
        } catch (error) { fill(estimate, error.message, () => h("p", { class: "error" }, error.message)); }
        train.refresh();
      }, 200);
    };

    const body = h("tbody");
    const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, h("table", { class: "runs" }, h("thead", {}, h("tr", {}, ["Run", ...Object.values(COLUMNS), ""].map((words) => h("th", { scope: "col" }, words)))), body));
    const noRuns = h("p", { class: "soft" }, "No training yet. Those that a terminal starts appear here too.");
    const rows = new Map();
    const actions = {
      dataset: () => picked.dataset,
      stop: async (run, say) => {
        const job = server.state.jobs.find((each) => trains(each, dataset(), run));
        try { if (job) await post("/api/stop", { id: job.id }); } catch (error) { say(error.message); }
      },
      resume: async (run, say) => {
        try {
          const wanted = again(run, picked.dataset, picked.device);
          const needs = await post("/api/forecast", wanted);
          if (needs.question && !(await agree(needs.question))) return;
          await post("/api/jobs", { command: "train", values: { ...wanted, yes: Boolean(needs.question) } });
          say("");
        } catch (error) { say(error.message); }
      },
    };
    const showRuns = (state) => {
      const found = dataset();
      const runs = found ? found.runs : [];
      for (const [folder, one] of rows) if (!runs.some((run) => run.folder === folder)) { one.rows.forEach((row) => row.remove()); rows.delete(folder); }
      for (const run of runs) {
        if (!rows.has(run.folder)) { const one = runRow(actions); rows.set(run.folder, one); body.append(...one.rows); }
        rows.get(run.folder).update(run, state.jobs.find((job) => trains(job, found, run)));
      }
      table.hidden = !runs.length;
      noRuns.hidden = Boolean(runs.length);
    };

    const done = () => (dataset() ? dataset().runs.filter((run) => run.state === "done" && run.fold !== "all") : []);
    const distinct = (key, budget) => [...new Set(done().filter((run) => !budget || run.budget === budget).map((run) => run[key]))];
    const missing = () => (!dataset() ? "Choose a dataset." : (done().length ? "" : "Train a numbered fold first."));
    const place = (kind) => `${server.state.workspace}/${kind}/${picked.dataset}`;
    const budgetOf = () => (distinct("budget").includes(picked.compared) ? picked.compared : distinct("budget")[0]);
    const result = (label, values, needed = missing) => {
      const command = label.toLowerCase();
      return commandBox(label, () => needed() || { command, values: values() }, { mine: (job) => job.command === command && dataset() && isOf(job, dataset()), onDone: () => readResults() });
    };
    const compared = h("select", { "aria-label": "Budget to compare", onchange: (event) => { picked.compared = event.target.value; compare.refresh(); } });
    const nested = h("label", { class: "tick" }, h("input", { type: "checkbox", onchange: (event) => { picked.nested = event.target.checked; choose.refresh(); } }), " also the honest score of the choice");
    const compare = result("Compare", () => ({ dataset: picked.dataset, out: place("comparison"), configuration: distinct("configuration", budgetOf()), model: distinct("model", budgetOf()), budget: budgetOf() }));
    const choose = result("Select", () => ({ dataset: picked.dataset, nested: picked.nested }));
    const audit = result("Audit", () => ({ dataset: picked.dataset, out: place("audit") }), () => (dataset() ? "" : "Choose a dataset."));
    const pack = result("Pack", () => ({ dataset: picked.dataset, out: `${server.state.workspace}/${picked.dataset}.zip` }));
    const pages = { compare: folded("Comparison"), audit: folded("Masks to check first") };
    const verdict = h("div", { role: "status" });
    const chosen = h("p", { role: "status" });
    const packed = h("p");
    const readResults = async () => {
      const found = dataset() ? await get("/api/results", { dataset: picked.dataset }).catch(() => null) : null;
      if (!found) return;
      fill(verdict, found.verdict, () => found.verdict.map((words, at) => h("p", { class: at ? "soft" : "" }, words)));
      chosen.textContent = found.choice ? `Chosen: ${found.choice}` : "";
      for (const [key, one] of Object.entries(pages)) one.update(found[key]);
      fill(packed, found.pack, () => (found.pack ? h("a", { href: fileAddress(found.pack.path, true) }, `Save ${nameOf(found.pack.path)}`) : null));
    };
    const results = h("section", {}, h("h2", {}, "Results"),
      h("h3", {}, "Compare"), h("p", { class: "soft" }, "Configurations and models on the same held-out cases."), verdict, h("label", { class: "row soft" }, "Budget ", compared), compare.box, pages.compare.box,
      h("h3", {}, "Select"), h("p", { class: "soft" }, "The cheapest model that is not worse than the best; prediction then uses it."), chosen, nested, choose.box,
      h("h3", {}, "Audit"), h("p", { class: "soft" }, "Training masks that differ most from the others and from their prediction."), audit.box, pages.audit.box,
      h("h3", {}, "Pack the model"), h("p", { class: "soft" }, "One file without paths, names or identities, for another machine."), packed, pack.box);

    const setUp = h("div", {}, planning, form, caveat, estimate, train.box);
    root.append(h("section", {}, h("h2", {}, "Train"), none, h("div", { class: "form" }, field("Dataset", which)), setUp), h("section", {}, h("h2", {}, "Runs"), noRuns, table), results);

    const renew = async () => {
      const name = picked.dataset;
      if (!name) return;
      try {
        const found = await get("/api/training", { dataset: name });
        if (name !== picked.dataset) return;
        choices = found;
        picked.budget = picked.budget || (found.devices.includes("cuda") ? "full" : "smoke");
        buildForm();
        showForm();
      } catch (error) { estimate.replaceChildren(h("p", { class: "error" }, error.message)); }
      readResults();
      if (server.state) update(server.state);
    };
    const update = (state) => {
      const names = state.datasets.map((each) => each.name);
      if (!names.includes(picked.dataset)) picked.dataset = names[0] || "";
      fill(which, names, () => names.map((each) => h("option", { value: each, selected: each === picked.dataset }, each)));
      which.value = picked.dataset;
      none.hidden = Boolean(names.length);
      which.parentElement.hidden = !names.length;
      setUp.hidden = results.hidden = !names.length;
      const now = dataset();
      const key = now ? `${now.name} ${now.planned} ${now.runs.map((run) => run.state)}` : "";
      if (key !== asked) { asked = key; renew(); }
      compared.parentElement.hidden = distinct("budget").length < 2;
      fill(compared, distinct("budget"), () => distinct("budget").map((each) => h("option", { value: each }, each)));
      showRuns(state);
      for (const box of [plan, train, compare, choose, audit, pack]) box.update(state);
    };
    return { update, show: (next) => { if (next.dataset) { picked.dataset = next.dataset; renew(); } }, leave: () => clearTimeout(timer) };
  },
};
