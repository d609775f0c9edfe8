/* Step 3: plan, train, watch, and compare. */
import {
  address, commandBox, duration, field, fileAddress, get, number, post, render, select, server, soft, tick, trouble,
} from "/assets/kit.js";
import { h } from "/assets/shared.js";

const COLUMNS = ["State", "Epoch", "Loss: training / validation", "Pseudo-Dice", "Left", "Dice"];

const mean = (values) => {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b) / known.length : null;
};
/* Pictures of a run over its epochs, drawn by the server. */
const FIGURES = {
  loss: "Loss: training dashed, validation solid", dice: "Pseudo-Dice solid, derived IoU dashed",
};
const figures = ({ epochs, folder }, dataset) => Object.entries(FIGURES).map(([picture, text]) => {
  const src = address("/api/curve", { dataset, folder, picture, epochs });
  return h("figure", h("figcaption", text), h("img", { alt: `${text}, after epoch ${epochs}`, src }));
});

/* A page of the workspace that is loaded when it is opened; `time` tells a new one from the last. */
const folded = (title, path, time) => h("details", { hidden: !path }, h("summary", title), path && [
  h("p.row", h("a", { href: fileAddress(path), target: "_blank", rel: "noopener" }, "Open in a tab"),
    h("a", { href: fileAddress(path, { save: 1 }) }, "Save")),
  h("iframe.result", { title, loading: "lazy", src: fileAddress(path, { time }) })]);

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

/* The table of all runs of a dataset, each with its reason, curves and page below it. */
const runTable = (dataset, device) => {
  const box = h("div"), problem = trouble(), opened = new Set();
  const stop = (job) => problem.attempt(() => post("/api/stop", { id: job.id }));
  const resume = ({ configuration, fold, model, budget, repeat }) => problem.attempt(() => post("/api/jobs", {
    command: "train", values: {
      dataset: dataset().name, configuration: [configuration], fold: [String(fold)], model, device: device(), yes: true,
      budget: model.includes("__") ? "" : budget, repeat: repeat ? repeat + 1 : "",
    },
  }));
  const below = (...parts) => h("tr.detail", h("td", { colSpan: 8 }, parts));
  const detail = (run) => below(
    h("div.figures.wide", run.epochs ? figures(run, dataset().name) : soft("No epoch has ended yet.")),
    folded("Page of this run", run.page, run.mean_dice));
  const row = (run, job) => {
    const { configuration, fold, repeat, state, dice_per_structure: dice } = run, isOpen = opened.has(run.folder);
    const title = `${configuration}, fold ${fold}${repeat ? `, repeat ${repeat}` : ""}`;
    const elsewhere = state === "running" && !job && "started in a terminal: stop it there with Ctrl+C";
    const each = Object.entries(dice).map(([name, value]) => `${name} ${number(value)}`).join("\n");
    const cells = [
      [h("span", { class: `state ${state}` }, state), h("small", run.job ? `job ${run.job}` : elsewhere)],
      run.epochs_planned ? `${run.epochs} of ${run.epochs_planned}` : String(run.epochs || "–"),
      run.train_loss === null ? "–" : `${number(run.train_loss)} / ${number(run.val_loss)}`,
      h("span", { title: each }, number(mean(Object.values(dice)))), duration(run.seconds_left) || "–",
      number(run.mean_dice)];
    const act = (label, onclick, more) => h("button", { "aria-label": `${label}: ${title}`, onclick, ...more }, label);
    const resumes = !job && ["stopped", "failed", "planned"].includes(state);
    const toggle = () => { if (!opened.delete(run.folder)) opened.add(run.folder); update(); };
    return [
      h("tr", h("th", { scope: "row" }, title, h("small", `${run.model}, ${run.budget}`)),
        cells.map((cell, n) => h("td", { "data-name": COLUMNS[n] }, cell)),
        h("td.acts", act("Stop", () => stop(job), { hidden: !job || state !== "running" }),
          act(state === "failed" ? "Try again" : "Go on", () => resume(run), { hidden: !resumes }),
          act("Details", toggle, { "aria-expanded": String(isOpen) }))),
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

/* The comparison of the finished runs with a budget, and its page. */
const comparison = (dataset, budget) => {
  const folder = () => `${server.state.workspace}/comparison/${dataset().name}`, page = h("div");
  const command = commandBox("Compare", () => {
    const { name, runs } = dataset() || { runs: [] };
    const finished = runs.filter((run) => run.state === "done" && run.fold !== "all" && run.budget === budget());
    const distinct = (key) => [...new Set(finished.map((run) => run[key]))];
    if (!finished.length) return `Train a numbered fold with the budget ${budget()} first.`;
    const [configuration, model] = ["configuration", "model"].map(distinct);
    return { command: "compare", values: { dataset: name, out: folder(), configuration, model, budget: budget() } };
  }, { mine: (job) => job.command === "compare" && dataset() && isOf(job, dataset()) });
  const update = (state) => {
    command.update(state);
    const time = dataset() && dataset().compared;
    render(page, folded("Comparison", time && `${folder()}/index.html`, time));
  };
  const box = h("section", h("h2", "Results"), soft("Configurations and models on the same held-out cases."),
    command.box, page, soft("In a terminal, nnunet-bridge select, audit and pack work on finished runs."));
  return { box, update, refresh: command.refresh };
};

const mount = (root, values) => {
  const picked = { dataset: values.dataset || "", model: "nnunet", budget: "", fold: "0", device: "auto", on: "local" };
  let choices = null, seen = "", takes = {}, agreed = false, timer = 0;
  const dataset = () => server.state.datasets.find((each) => each.name === picked.dataset);
  const model = () => choices.models.find((each) => each.name === picked.model);
  const planned = () => (choices ? model().planned : []);
  const configurations = () => planned().filter((each) => !picked.configuration || picked.configuration.includes(each));
  const training = () => ({ ...picked, configuration: configurations(), fold: [picked.fold],
    ...(picked.on === "local" ? { on: "" } : { recipe: server.state.study.recipe }) });

  const top = h("div"), form = h("div.form"), estimate = h("div.estimate", { role: "status", "aria-live": "polite" });
  const problem = trouble();
  const mine = (command) => (job) => job.command === command && dataset() && isOf(job, dataset());
  const plan = commandBox("Plan", () => {
    if (!dataset()) return "Choose a dataset.";
    const planner = choices && model().planner;
    return { command: "plan", values: { dataset: picked.dataset, planner: planner === "default" ? "" : planner } };
  }, { mine: mine("plan"), onDone: () => renew() });
  const planning = h("details.planning", h("summary", "Plan: patch and batch size, preprocessing, folds"),
    soft("nnU-Net adapts its networks to the data and prepares the images. Plan again when the dataset has changed."),
    plan.box);
  const train = commandBox("Train", () => {
    if (!dataset()) return "Choose a dataset.";
    if (!choices) return "Reading the plans.";
    const { planner } = model();
    if (!planned().length) return `Plan it first${planner === "default" ? "" : ` with the planner ${planner}`}.`;
    if (!configurations().length) return "Choose a configuration.";
    if (takes.question && !agreed) return "It takes long: agree above.";
    return { command: "train", values: { ...training(), yes: agreed } };
  }, { mine: mine("train") });

  const set = (key) => (value) => { picked[key] = value; draw(); };
  const tickOf = (word) => tick(word, (on) => {
    set("configuration")(planned().filter((each) => (each === word ? on : configurations().includes(each))));
  }, { value: word, checked: configurations().includes(word) });
  const draw = () => {
    const { folds, budgets, models, devices, slurm, failure } = choices;
    const numbered = Array.from({ length: folds }, (_, fold) => [String(fold), `fold ${fold}`]);
    const named = ({ name, planner }) => [name, planner === "default" ? name : `${name} (planner ${planner})`];
    const fields = [
      ["Folds", "fold", [...numbered, ["all5", `all ${folds} folds`], ["all", "all cases, none held out"]]],
      ["Budget", "budget", budgets.map((each) => each.name)], ["Model", "model", models.map(named)],
      ["Device", "device", devices],
      ["Where", "on", slurm ? [["local", "this machine"], ["slurm", "Slurm cluster"]] : []],
    ];
    form.hidden = !folds;
    const control = ([label, key, words]) => field(label, select(words, picked[key], set(key)));
    const { recipe } = server.state.study;
    render(form,
      h("fieldset.field", h("legend", "Configurations"),
        planned().length ? planned().map(tickOf) : soft(failure || "Not planned yet.")),
      fields.filter(([, , words]) => words.length).map(control),
      picked.on !== "local" && soft(recipe ? `With [slurm] of ${recipe}.` : "Choose a study: its recipe has [slurm]."));
    planning.open = planning.open || !planned().length;
    for (const each of [plan, train, results]) each.refresh();
    takes = {};
    agreed = false;
    clearTimeout(timer);
    timer = setTimeout(ask, 200);
  };
  const agree = (on) => { agreed = on; train.refresh(); };
  const ask = async () => {
    const body = { ...training(), on: picked.on };
    takes = body.configuration.length
      ? await post("/api/forecast", body).catch((error) => ({ warnings: [error.message] })) : { warnings: [] };
    render(estimate, takes.sentence && h("p", takes.sentence), takes.warnings.map((words) => h("p.error", words)),
      takes.question && tick(`${takes.question} Start it nevertheless`, agree, { checked: agreed }));
    train.refresh();
  };

  const runs = runTable(dataset, () => picked.device), results = comparison(dataset, () => picked.budget);
  const setUp = h("div", planning, form, estimate, train.box);
  root.append(h("section", h("h2", "Train"), top, problem.box, setUp), h("section", h("h2", "Runs"), runs.parts),
    results.box);

  const renew = () => problem.attempt(async () => {
    const asked = picked.dataset;
    if (!asked) return;
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
    update(server.state);
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
  return { update, show: ({ dataset: other }) => (other ? open(other) : renew()) };
};

export default { title: "Train", mount };
