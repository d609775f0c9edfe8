/* Step 3: plan, train, watch, and the pages of the results. */
import { choosePath, commandBox, duration, field, fileAddress, fill, get, h, name as nameOf, number, post, select, server } from "/assets/kit.js";

/* A picture of lines over the epochs, drawn by the server; `lines` are [name, style, key of the values]. */
const figure = (title, kind, lines) => {
  const image = h("img");
  const keys = h("p", { class: "soft" });
  const update = (found, asked) => {
    keys.replaceChildren(...lines.map(([name, style, key]) => h("span", { class: "line-key" }, h("span", { class: `stroke ${style}` }), ` ${name} ${number(found[key].at(-1))}`)));
    image.alt = `${title} after epoch ${found.epochs.at(-1) + 1}: ${keys.textContent}`;
    image.src = `/api/curve?${new URLSearchParams({ ...asked, picture: kind, last: found.epochs.at(-1) })}`;
  };
  return { box: h("figure", {}, h("figcaption", {}, title), image, keys), update };
};

/* A page that is loaded when it is opened. */
const folded = (title) => {
  const box = h("details");
  const update = (file) => {
    box.hidden = !file;
    fill(box, file || null, () => (file ? [h("summary", {}, title), h("p", { class: "row" },
      h("a", { href: fileAddress(file.path), target: "_blank", rel: "noopener" }, "Open in a tab"), h("a", { href: fileAddress(file.path, true) }, "Save")),
    h("iframe", { class: "result", title, loading: "lazy", src: fileAddress(file.path) })] : null));
  };
  return { box, update };
};

/* Whether to start a training; asked of one that is long. */
const agree = (takes) => !takes.question || confirm(`${takes.question} Start it?`);

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
  const more = h("button", { type: "button", "aria-expanded": "false", onclick: () => toggle() }, "Details");
  const stop = h("button", { type: "button", onclick: () => actions.stop(now) }, "Stop");
  const resume = h("button", { type: "button", onclick: () => actions.resume(now) }, "Go on");
  const reason = h("p", { class: "error" });
  const none = h("p", { class: "soft" }, "No epoch has ended yet.");
  const loss = figure("Loss", "loss", [["training", "dashed", "train_loss"], ["validation", "", "val_loss"]]);
  const dice = figure("Pseudo-Dice and derived IoU", "dice", [["Pseudo-Dice", "", "pseudo_dice"], ["IoU", "dashed", "pseudo_iou"]]);
  const curves = h("div", { class: "figures wide", hidden: true }, loss.box, dice.box);
  const record = folded("Page of this run");
  const row = h("tr", {}, Object.values(cells), h("td", { class: "acts" }, stop, resume, more));
  const detail = h("tr", { class: "detail", hidden: true }, h("td", { colSpan: 8 }, none, curves, record.box));
  const trouble = h("tr", { class: "detail", hidden: true }, h("td", { colSpan: 8 }, reason));
  let now = null;
  let drawn = "";
  const draw = async () => {
    const key = `${now.folder} ${now.epochs} ${now.state}`;
    if (detail.hidden || drawn === key) return;
    drawn = key;
    const asked = { dataset: actions.dataset(), folder: now.folder };
    const found = await get("/api/curve", asked).catch(() => ({ epochs: [] }));
    none.hidden = found.epochs.length > 0;
    curves.hidden = !none.hidden;
    if (!none.hidden) return;
    loss.update(found, asked);
    dice.update(found, asked);
  };
  const toggle = () => { detail.hidden = !detail.hidden; more.setAttribute("aria-expanded", String(!detail.hidden)); draw(); };
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
    trouble.hidden = !run.reason;
    record.update(run.page && { path: run.page, time: run.mean_dice });
    draw();
  };
  return { rows: [row, trouble, detail], update };
};

export default {
  title: "Train",
  mount(root, values) {
    const picked = { dataset: values.dataset || "", model: "nnunet", budget: "", fold: "0", repeat: "1", device: "auto", on: "local", recipe: "", configuration: null, nested: false };
    let choices = null;
    let asked = "";
    let takes = {};
    let agreedTo = "";
    let timer = 0;
    const dataset = () => (server.state ? server.state.datasets.find((each) => each.name === picked.dataset) : null);
    const model = () => choices.models.find((each) => each.name === picked.model);
    const planned = () => (choices && choices.planned[model().planner] ? choices.planned[model().planner].filter((each) => model().configurations.includes(each)) : []);
    const configurations = () => planned().filter((each) => !picked.configuration || picked.configuration.includes(each));
    const training = () => ({
      dataset: picked.dataset, configuration: configurations(), fold: [picked.fold], model: picked.model, budget: picked.budget,
      repeat: picked.repeat === "1" ? "" : picked.repeat, device: picked.device, on: picked.on === "local" ? "" : picked.on, recipe: picked.on === "local" ? "" : picked.recipe,
    });

    const which = h("select", { onchange: (event) => { picked.dataset = event.target.value; choices = null; picked.configuration = null; renew(); } });
    const none = h("p", { class: "lead" }, "There is no dataset yet. ", h("a", { href: "#/check" }, "Check and convert a study"), " first.");
    const form = h("div", { class: "form" });
    const boxes = h("fieldset", { class: "field" });
    const recipe = h("button", { type: "button", onclick: async () => { picked.recipe = await choosePath("Choose a recipe with the part [slurm]", { endings: [".toml"] }) || picked.recipe; showForm(); } });
    const slurm = h("span", { class: "field" }, h("span", {}, "Recipe with [slurm]"), recipe);
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
      return { command: "train", values: { ...training(), yes: Boolean(takes.question && takes.question === agreedTo) } };
    }, {
      mine: (job) => job.command === "train" && dataset() && isOf(job, dataset()),
      agreed: () => { const sure = agree(takes); agreedTo = sure ? takes.question : ""; return sure; },
    });

    const buildForm = () => {
      const pick = (key) => (value) => { picked[key] = value; showForm(); };
      const folds = [...Array.from({ length: choices.folds }, (_, fold) => [String(fold), `fold ${fold}`]), ["all5", `all ${choices.folds} folds`], ["all", "all cases, none held out"]];
      const repeat = h("input", { type: "number", min: "1", max: "99", value: picked.repeat, oninput: (event) => pick("repeat")(event.target.value) });
      form.replaceChildren(
        boxes,
        field("Folds", select(folds, picked.fold, pick("fold"))),
        field("Budget", select(choices.budgets.map((each) => each.name), picked.budget, pick("budget"))),
        field("Model", select(choices.models.map((each) => [each.name, each.planner === "default" ? each.name : `${each.name} (planner ${each.planner})`]), picked.model, pick("model"))),
        field("Trainings per fold", repeat),
        field("Device", select(choices.devices, picked.device, pick("device"))),
        choices.slurm ? field("Where", select([["local", "this machine"], ["slurm", "Slurm cluster"]], picked.on, pick("on"))) : "",
        slurm,
      );
    };
    const showForm = () => {
      form.hidden = !choices.folds;
      slurm.hidden = picked.on === "local";
      recipe.textContent = picked.recipe ? nameOf(picked.recipe) : "Choose";
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
        takes = {};
        const body = training();
        takes = body.configuration.length ? await post("/api/forecast", { ...body, on: picked.on }).catch((error) => ({ warnings: [error.message] })) : { warnings: [] };
        fill(estimate, takes, () => [takes.sentence && h("p", {}, takes.sentence), ...takes.warnings.map((words) => h("p", { class: "error" }, words))]);
        train.refresh();
      }, 200);
    };

    const body = h("tbody");
    const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, h("table", { class: "runs" }, h("thead", {}, h("tr", {}, ["Run", ...Object.values(COLUMNS), ""].map((words) => h("th", { scope: "col" }, words)))), body));
    const noRuns = h("p", { class: "soft" }, "No training yet. Those that a terminal starts appear here too.");
    const rows = new Map();
    const problem = h("p", { class: "error", role: "alert" });
    const attempt = (act) => act().then(() => { problem.textContent = ""; }, (error) => { problem.textContent = error.message; });
    const actions = {
      dataset: () => picked.dataset,
      stop: (run) => attempt(async () => {
        const job = server.state.jobs.find((each) => trains(each, dataset(), run));
        if (job) await post("/api/stop", { id: job.id });
      }),
      resume: (run) => attempt(async () => {
        const wanted = again(run, picked.dataset, picked.device);
        const needs = await post("/api/forecast", wanted);
        if (agree(needs)) await post("/api/jobs", { command: "train", values: { ...wanted, yes: Boolean(needs.question) } });
      }),
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

    const setUp = h("div", {}, planning, form, estimate, train.box);
    root.append(h("section", {}, h("h2", {}, "Train"), none, h("div", { class: "form" }, field("Dataset", which)), setUp), h("section", {}, h("h2", {}, "Runs"), noRuns, problem, table), results);

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
