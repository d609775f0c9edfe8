/* Step 3: plan, train, watch, and the pages of the results. */
import {
  address, choosePath, commandBox, duration, field, fileAddress, get, name as nameOf, number, post, render, select, server, soft,
  tick, trouble,
} from "/assets/kit.js";
import { h } from "/assets/shared.js";

/* Pictures of a run over its epochs, drawn by the server: title, kind, and name, style and key of each line. */
const FIGURES = [
  ["Loss", "loss", [["training", "dashed", "train_loss"], ["validation", "", "val_loss"]]],
  ["Pseudo-Dice and derived IoU", "dice", [["Pseudo-Dice", "", "pseudo_dice"], ["IoU", "dashed", "pseudo_iou"]]],
];
const COLUMNS = ["State", "Epoch", "Loss: training / validation", "Pseudo-Dice", "Left", "Dice"];

const figures = (found, asked) => FIGURES.map(([title, kind, lines]) => {
  const last = found.epochs.at(-1), values = lines.map(([name, style, key]) => [style, ` ${name} ${number(found[key].at(-1))}`]);
  const alt = `${title} after epoch ${last + 1}:${values.map(([, text]) => text)}`;
  return h("figure", h("figcaption", title), h("img", { alt, src: address("/api/curve", { ...asked, picture: kind, last }) }),
    soft(values.map(([style, text]) => h("span.line-key", h("span", { class: `stroke ${style}` }), text))));
});

/* A page that is loaded when it is opened. */
const folded = (title, file) => h("details", { hidden: !file }, h("summary", title), file && [
  h("p.row", h("a", { href: fileAddress(file.path), target: "_blank", rel: "noopener" }, "Open in a tab"),
    h("a", { href: fileAddress(file.path, { save: 1 }) }, "Save")),
  h("iframe.result", { title, loading: "lazy", src: fileAddress(file.path, { time: file.time }) })]);

/* Whether to start a training; asked of one that is long. */
const agree = (takes) => !takes.question || confirm(`${takes.question} Start it?`);

const isOf = ({ values }, dataset) => [dataset.name, String(dataset.number)].includes(String(values && values.dataset));
/* Whether a job of the page is the training of a run. */
const trains = (job, dataset, run) => {
  if (job.state !== "running" || job.command !== "train" || !isOf(job, dataset)) return false;
  const { configuration, fold, model, budget } = job.values;
  const words = (value, usual) => (value && value.length ? [value].flat().map(String) : [usual]);
  const folds = words(fold, "0");
  return words(configuration, run.configuration).includes(run.configuration)
    && (folds.includes(String(run.fold)) || (folds.includes("all5") && run.fold !== "all"))
    && (model || "nnunet") === run.model && (run.model.includes("__") || (budget || "full") === run.budget);
};
const mean = (values) => {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b) / known.length : null;
};

/* The table of all runs of a dataset, each with its reason, curves and page below it. */
const runTable = (dataset, device) => {
  const box = h("div"), problem = trouble(), opened = new Set(), curves = new Map();
  const stop = (job) => problem.attempt(() => post("/api/stop", { id: job.id }));
  const resume = ({ configuration, fold, model, budget, repeat }) => problem.attempt(async () => {
    const wanted = { dataset: dataset().name, configuration: [configuration], fold: [String(fold)], model,
      budget: model.includes("__") ? "" : budget, repeat: repeat ? repeat + 1 : "", device: device() };
    const takes = await post("/api/forecast", wanted);
    const values = { ...wanted, yes: Boolean(takes.question) };
    if (agree(takes)) await post("/api/jobs", { command: "train", values });
  });
  const read = async (run, asked) => {
    const kept = curves.get(run.folder), now = `${run.epochs} ${run.state}`;
    if (kept && kept.now === now) return;
    curves.set(run.folder, { ...kept, now });
    const found = await get("/api/curve", asked).catch(() => ({ epochs: [] }));
    curves.set(run.folder, { found, now });
    update();
  };
  const below = (...parts) => h("tr.detail", h("td", { colSpan: 8 }, parts));
  const detail = (run) => {
    const asked = { dataset: dataset().name, folder: run.folder };
    read(run, asked);
    const { found } = curves.get(run.folder);
    return below(
      h("div.figures.wide", found && (found.epochs.length ? figures(found, asked) : soft("No epoch has ended yet."))),
      folded("Page of this run", run.page && { path: run.page, time: run.mean_dice }));
  };
  const row = (run, job) => {
    const { configuration, fold, repeat, state, dice_per_structure: dice } = run, isOpen = opened.has(run.folder);
    const title = `${configuration}, fold ${fold}${repeat ? `, repeat ${repeat}` : ""}`;
    const elsewhere = state === "running" && !job && "started in a terminal: stop it there with Ctrl+C";
    const each = Object.entries(dice).map(([name, value]) => `${name} ${number(value)}`).join("\n");
    const cells = [
      [h("span", { class: `state ${state}` }, state), h("small", run.job ? `job ${run.job}` : elsewhere)],
      run.epochs_planned ? `${run.epochs} of ${run.epochs_planned}` : String(run.epochs || "–"),
      run.train_loss === null ? "–" : `${number(run.train_loss)} / ${number(run.val_loss)}`,
      h("span", { title: each }, number(mean(Object.values(dice)))), duration(run.seconds_left) || "–", number(run.mean_dice)];
    const act = (label, onclick, hidden, more) => h("button", { "aria-label": `${label}: ${title}`, onclick, hidden, ...more }, label);
    const toggle = () => { if (!opened.delete(run.folder)) opened.add(run.folder); update(); };
    return [
      h("tr", h("th", { scope: "row" }, title, h("small", `${run.model}, ${run.budget}`)),
        cells.map((cell, n) => h("td", { "data-name": COLUMNS[n] }, cell)),
        h("td.acts", act("Stop", () => stop(job), !job || state !== "running"),
          act(state === "failed" ? "Try again" : "Go on", () => resume(run), Boolean(job) || !["stopped", "failed", "planned"].includes(state)),
          act("Details", toggle, false, { "aria-expanded": String(isOpen) }))),
      run.reason && below(h("p.error", run.reason)), isOpen && detail(run)];
  };
  const update = () => {
    const found = dataset(), runs = found ? found.runs : [];
    const heads = ["Run", ...COLUMNS, ""].map((words) => h("th", { scope: "col" }, words));
    const body = runs.map((run) => row(run, server.state.jobs.find((job) => trains(job, found, run))));
    render(box, runs.length ? h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Runs" },
      h("table.runs", h("thead", h("tr", heads)), h("tbody", body)))
      : soft("No training yet. Those that a terminal starts appear here too."));
  };
  return { parts: [problem.box, box], update };
};

/* What is done with finished runs: comparison, choice, audit and packed model. */
const resultSteps = (dataset) => {
  let budget = "", nested = false;
  const done = () => (dataset() ? dataset().runs.filter((run) => run.state === "done" && run.fold !== "all") : []);
  const distinct = (key, runs = done()) => [...new Set(runs.map((run) => run[key]))];
  const compared = () => done().filter((run) => run.budget === (distinct("budget").includes(budget) ? budget : done()[0].budget));
  const needsRun = () => (done().length ? "" : "Train a numbered fold first.");
  const step = (label, about, values, missing = needsRun) => {
    const command = label.toLowerCase(), before = h("div"), after = h("div");
    const box = commandBox(label, () => {
      if (!dataset()) return "Choose a dataset.";
      return missing() || { command, values: { dataset: dataset().name, ...values() } };
    }, { mine: (job) => job.command === command && dataset() && isOf(job, dataset()), onDone: () => read() });
    return { ...box, before, after, parts: [h("h3", label), soft(about), before, box.box, after] };
  };
  const place = (kind, ending = "") => `${server.state.workspace}/${kind}${dataset().name}${ending}`;
  const compare = step("Compare", "Configurations and models on the same held-out cases.", () => ({
    out: place("comparison/"), configuration: distinct("configuration", compared()), model: distinct("model", compared()),
    budget: compared()[0].budget,
  }));
  const choose = step("Select", "The cheapest model that is not worse than the best; prediction then uses it.", () => ({ nested }));
  const audit = step("Audit", "Training masks that differ most from the others and from their prediction.",
    () => ({ out: place("audit/") }), () => "");
  const pack = step("Pack", "The model as one file without paths, names or identities, for another machine.",
    () => ({ out: place("", ".zip") }));
  const steps = [compare, choose, audit, pack];

  const read = async () => {
    const found = dataset() && await get("/api/results", { dataset: dataset().name }).catch(() => null);
    if (!found) return;
    const budgets = distinct("budget");
    const pick = select(budgets, budget, (value) => { budget = value; compare.refresh(); });
    render(compare.before, found.verdict.map((words, at) => h("p", { class: at ? "soft" : "" }, words)),
      budgets.length > 1 && h("label.row.soft", "Budget to compare ", pick));
    render(compare.after, folded("Comparison", found.compare));
    render(choose.before, found.choice && h("p", `Chosen: ${found.choice}`),
      tick("also the honest score of the choice", (on) => { nested = on; choose.refresh(); }, { checked: nested }));
    render(audit.after, folded("Masks to check first", found.audit));
    render(pack.before, found.pack && h("p",
      h("a", { href: fileAddress(found.pack.path, { save: 1 }) }, `Save ${nameOf(found.pack.path)}`)));
  };
  const update = (state) => steps.forEach((one) => one.update(state));
  return { box: h("section", { role: "status" }, h("h2", "Results"), steps.map((one) => one.parts)), read, update };
};

const mount = (root, values) => {
  const picked = { dataset: values.dataset || "", model: "nnunet", budget: "", fold: "0", repeat: "1", device: "auto", on: "local" };
  let choices = null, seen = "", takes = {}, agreedTo = "", timer = 0;
  const dataset = () => (server.state ? server.state.datasets.find((each) => each.name === picked.dataset) : null);
  const model = () => choices.models.find((each) => each.name === picked.model);
  const planned = () => ((choices && choices.planned[model().planner]) || []).filter((each) => model().configurations.includes(each));
  const configurations = () => planned().filter((each) => !picked.configuration || picked.configuration.includes(each));
  const training = () => ({ ...picked, configuration: configurations(), fold: [picked.fold],
    repeat: picked.repeat === "1" ? "" : picked.repeat, ...(picked.on === "local" ? { on: "", recipe: "" } : {}) });

  const top = h("div"), form = h("div.form"), estimate = h("div.estimate", { role: "status", "aria-live": "polite" });
  const problem = trouble();
  const mine = (command) => (job) => job.command === command && dataset() && isOf(job, dataset());
  const plan = commandBox("Plan", () => {
    if (!dataset()) return "Choose a dataset.";
    const planner = choices && model().planner;
    return { command: "plan", values: { dataset: picked.dataset, planner: planner === "default" ? "" : planner } };
  }, { mine: mine("plan"), onDone: () => renew() });
  const planning = h("details.planning", h("summary", "Plan: patch and batch size, preprocessing, folds"),
    soft("nnU-Net adapts its networks to the data and prepares the images. Plan again after a change of the dataset."), plan.box);
  const train = commandBox("Train", () => {
    if (!dataset()) return "Choose a dataset.";
    if (!choices) return "Reading the plans.";
    const { planner } = model();
    if (!planned().length) return `Plan it first${planner === "default" ? "" : `: ${picked.model} needs the planner ${planner}`}.`;
    if (!configurations().length) return "Choose a configuration.";
    return { command: "train", values: { ...training(), yes: Boolean(takes.question) && takes.question === agreedTo } };
  }, { mine: mine("train"), agreed: () => {
    const sure = agree(takes);
    agreedTo = sure ? takes.question : "";
    return sure;
  } });

  const set = (key) => (value) => { picked[key] = value; draw(); };
  const tickOf = (word) => tick(word, (on) => {
    set("configuration")(planned().filter((each) => (each === word ? on : configurations().includes(each))));
  }, { value: word, checked: configurations().includes(word) });
  const chooseRecipe = async () => {
    const file = await choosePath("Choose a recipe with the part [slurm]", { endings: [".toml"] });
    if (file) set("recipe")(file);
  };
  const draw = () => {
    const { folds, budgets, models, devices, slurm, failure } = choices;
    const numbered = Array.from({ length: folds }, (_, fold) => [String(fold), `fold ${fold}`]);
    const named = ({ name, planner }) => [name, planner === "default" ? name : `${name} (planner ${planner})`];
    const fields = [
      ["Folds", "fold", [...numbered, ["all5", `all ${folds} folds`], ["all", "all cases, none held out"]]],
      ["Budget", "budget", budgets.map((each) => each.name)], ["Model", "model", models.map(named)], ["Device", "device", devices],
      ["Where", "on", slurm ? [["local", "this machine"], ["slurm", "Slurm cluster"]] : []],
    ];
    form.hidden = !folds;
    render(form,
      h("fieldset.field", h("legend", "Configurations"), planned().map(tickOf), !planned().length && soft(failure || "Not planned yet.")),
      fields.filter(([, , words]) => words.length).map(([label, key, words]) => field(label, select(words, picked[key], set(key)))),
      field("Trainings per fold", h("input", { type: "number", min: "1", max: "99", value: picked.repeat,
        oninput: ({ target }) => set("repeat")(target.value) })),
      picked.on !== "local" && h("span.field", h("span", "Recipe with [slurm]"),
        h("button", { onclick: chooseRecipe }, picked.recipe ? nameOf(picked.recipe) : "Choose")));
    planning.open = planning.open || !planned().length;
    plan.refresh();
    train.refresh();
    takes = {};
    clearTimeout(timer);
    timer = setTimeout(ask, 200);
  };
  const ask = async () => {
    const body = { ...training(), on: picked.on };
    takes = body.configuration.length
      ? await post("/api/forecast", body).catch((error) => ({ warnings: [error.message] })) : { warnings: [] };
    render(estimate, takes.sentence && h("p", takes.sentence), takes.warnings.map((words) => h("p.error", words)));
    train.refresh();
  };

  const runs = runTable(dataset, () => picked.device), results = resultSteps(dataset);
  const setUp = h("div", planning, form, estimate, train.box);
  root.append(h("section", h("h2", "Train"), top, problem.box, setUp), h("section", h("h2", "Runs"), runs.parts), results.box);

  const renew = () => problem.attempt(async () => {
    const asked = picked.dataset;
    if (!asked) return;
    results.read();
    const found = await get("/api/training", { dataset: asked });
    if (asked !== picked.dataset) return;
    choices = found;
    picked.budget = picked.budget || (found.devices.includes("cuda") ? "full" : "smoke");
    draw();
  });
  const open = (name) => {
    Object.assign(picked, { dataset: name, configuration: null });
    choices = null;
    seen = "";
    if (server.state) update(server.state);
  };
  const update = (state) => {
    const names = state.datasets.map((each) => each.name);
    if (!names.includes(picked.dataset)) picked.dataset = names[0] || "";
    render(top, names.length ? h("div.form", field("Dataset", select(names, picked.dataset, open)))
      : h("p.lead", "There is no dataset yet. ", h("a", { href: "#/check" }, "Check and convert a study"), " first."));
    setUp.hidden = results.box.hidden = !names.length;
    const now = dataset();
    const key = now ? `${now.name} ${now.planned} ${now.runs.map((run) => run.state)}` : "";
    if (key !== seen) { seen = key; renew(); }
    for (const one of [runs, plan, train, results]) one.update(state);
  };
  return { update, show: (next) => next.dataset && open(next.dataset), leave: () => clearTimeout(timer) };
};

export default { title: "Train", mount };
