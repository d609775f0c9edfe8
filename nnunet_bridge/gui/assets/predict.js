/* Step 5: scans from the browser or this machine, a model, the slices, and what was predicted. */
import {
  address, chooseFolder, commandBox, counted, field, fileAddress, get, name, pager, post, render, select, server, soft,
  tick, trouble, turns,
} from "/assets/kit.js";
import { h, sideLetters, slicesOf } from "/assets/shared.js";

const IMAGE = /\.(nii|gz|nrrd|nhdr|mha|mhd|mgz|mgh|zip|z?raw)$/i;
const CLEANING = [["", "none"], ["slice", "slice by slice"], ["volume", "in 3-D"], ["tuned", "tuned for the model"]];
const SIDES = [["", "both"], ["left", "left only"], ["right", "right only"]];
const ALSO = { mesh: "meshes (PLY)", seg_nrrd: "3D Slicer (.seg.nrrd)", dicom_seg: "DICOM SEG (names the patient)" };

/* The files of an entry of a drop, each with its folders. */
const filesOf = async (entry, folder = "") => {
  if (entry.isFile) return [[folder + entry.name, await new Promise((done, failed) => entry.file(done, failed))]];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const each of some) found.push(...await filesOf(each, `${folder}${entry.name}/`));
  }
};
/* The list of items is empty after the first await. */
const dropped = async ({ items }) => {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  return (await Promise.all(entries.map((entry) => filesOf(entry)))).flat();
};

/* A picture across the slices, with two lines; `values` are the limits, rounded outwards, unless all are between. */
const limits = (changed) => {
  const picture = h("img", { alt: "The scan from the side", draggable: false }), letters = sideLetters();
  let positions = [], rows = [0, 0];
  const lines = ["Upper limit", "Lower limit"].map((label, end) => {
    const line = h(end ? "div.limit.lower" : "div.limit",
      { role: "slider", tabindex: "0", "aria-label": label, "aria-orientation": "vertical" }, h("span"));
    const move = (row) => {
      const [lowest, highest] = end ? [rows[0], positions.length - 1] : [0, rows[1]];
      rows[end] = Math.min(highest, Math.max(lowest, row));
      show();
    };
    line.addEventListener("keydown", (event) => {
      const step = slicesOf(event.key, positions.length);
      if (step) { move(rows[end] + step); event.preventDefault(); }
    });
    line.addEventListener("pointerdown", (event) => {
      line.setPointerCapture(event.pointerId);
      line.focus();
      event.preventDefault();
    });
    line.addEventListener("pointermove", (event) => {
      const { top, height } = picture.getBoundingClientRect();
      const row = Math.round((event.clientY - top) / height * positions.length) - end;
      if (line.hasPointerCapture(event.pointerId)) move(row);
    });
    return line;
  });
  const box = h("div.stage.limits", { hidden: true }, picture, letters, lines);
  const values = () => {
    if (!positions.length || (rows[0] === 0 && rows[1] === positions.length - 1)) return {};
    const [low, high] = rows.map((row) => 100 * positions[row]).sort((a, b) => a - b);
    return { from_mm: (Math.floor(low) / 100).toFixed(2), to_mm: (Math.ceil(high) / 100).toFixed(2) };
  };
  const show = () => {
    const ariaValueMin = Math.min(...positions), ariaValueMax = Math.max(...positions);
    lines.forEach((line, end) => {
      const place = positions[rows[end]], text = `${place.toFixed(1)} mm`;
      line.style.top = `${100 * (rows[end] + end) / positions.length}%`;
      line.firstChild.textContent = text;
      Object.assign(line, { ariaValueMin, ariaValueMax, ariaValueNow: place, ariaValueText: text });
    });
    changed();
  };
  const set = (view) => {
    box.hidden = !view;
    positions = view ? view.positions_mm : [];
    if (!view) return;
    rows = [0, positions.length - 1];
    picture.src = view.picture;
    letters.forEach((letter, n) => { letter.textContent = view.letters[n]; });
    show();
  };
  return { box, set, values };
};

/* Scans from a drop, from this computer or from the server's; `changed` is called with each other choice. */
const scanChooser = (changed) => {
  const chosen = { inputs: [], cases: [], series: "", kind: "" };
  const progress = h("progress", { max: 1, hidden: true, "aria-label": "Upload" });
  const note = h("p.soft", { role: "status" }), found = h("div"), problem = trouble(), newest = turns();
  const take = async (inputs, upload = null) => {
    const isMine = newest();
    Object.assign(chosen, { inputs, upload, cases: [], series: "", kind: "" });
    note.textContent = inputs.length ? "Looking through the files …" : "";
    const look = () => post("/api/predict/inputs", { inputs });
    const { cases } = (inputs.length && await problem.attempt(look)) || { cases: [] };
    if (!isMine()) return;
    chosen.cases = cases;
    note.textContent = cases.length ? counted(cases.length, "scan") : "";
    draw();
    changed();
  };
  const draw = () => {
    const series = chosen.cases.flatMap((each) => each.series);
    const kinds = [...new Set(series.flatMap((one) => one.kinds))];
    const words = new Map(series.map((one) => [one.word, `${one.number} ${one.description} (${one.slices} slices)`]));
    const set = (key) => (value) => { chosen[key] = value; changed(); };
    const several = chosen.cases.some((each) => each.series.length > 1);
    render(found,
      h("ul.soft", chosen.cases.slice(0, 20).map((each) => h("li", each.case))),
      h("div.form",
        several && field("Series", select([["", "the only one that fits"], ...words], chosen.series, set("series")),
          "This folder holds several series."),
        kinds.length > 1 && field("Image type", select([["", "any"], ...kinds], chosen.kind, set("kind"))),
        chosen.upload && h("button", { onclick: forget }, "Remove the uploaded files")));
  };
  const remove = (id) => post("/api/uploads/remove", { id });
  const forget = async () => { if (await problem.attempt(() => remove(chosen.upload))) take([]); };
  const send = async (made, files) => {
    const whole = files.reduce((sum, [, file]) => sum + file.size, 0) || 1, tops = new Set();
    /* Loose files without an ending of an image are the slices of one DICOM scan. */
    const loose = files.every(([path]) => !path.includes("/") && !IMAGE.test(path));
    for (const [path, file] of files) {
      note.textContent = `Uploading ${name(path)} …`;
      const asked = new URLSearchParams({ name: loose ? `scan/${path}` : path });
      const answer = await post(`/api/uploads/${made.id}?${asked}`, file);
      progress.value += file.size / whole;
      tops.add(`${made.path}/${answer.path.slice(made.path.length + 1).split("/")[0]}`);
    }
    return [...tops];
  };
  const upload = async (entries) => {
    const files = entries.filter(([path]) => !path.split("/").some((part) => part.startsWith(".")));
    if (!files.length) return;
    Object.assign(progress, { hidden: false, value: 0 });
    const made = await problem.attempt(() => post("/api/uploads", {}));
    const paths = made && await problem.attempt(() => send(made, files));
    progress.hidden = true;
    note.textContent = "";
    if (paths) take(paths, made.id);
    else if (made) remove(made.id).catch(() => null);
  };
  const picker = (label, properties) => {
    const input = h("input", { type: "file", multiple: true, hidden: true, ...properties, onchange: () => {
      upload([...input.files].map((file) => [file.webkitRelativePath || file.name, file]));
      input.value = "";
    } });
    return [h("button", { onclick: () => input.click() }, label), input];
  };
  const choose = async () => {
    const path = await chooseFolder("A folder of scans");
    if (path) take([path]);
  };
  const over = (on) => (event) => { event.preventDefault(); drop.classList.toggle("over", on); };
  const ondrop = (event) => { over(false)(event); problem.attempt(() => dropped(event.dataTransfer).then(upload)); };
  const drop = h("div.drop", { ondragover: over(true), ondragleave: over(false), ondrop },
    h("p", "Drop a folder, files or a zip here: DICOM, NIfTI, NRRD or MetaImage."),
    h("div.row", picker("Choose files…"), picker("Choose a folder…", { webkitdirectory: true }),
      h("button", { onclick: choose }, "Choose a folder on this machine…")));
  return { chosen, parts: [drop, progress, note, found, problem.box] };
};

/* What was predicted, in pages, with the quality report. */
const resultList = () => {
  const top = h("div"), table = h("div.scroll"), report = h("div");
  let shown = "", turn = 0;
  const volumeOf = ([structure, volume]) => h("div", `${structure} ${(volume / 1000).toFixed(1)}`);
  const row = ({ case: id, error, level, volumes_mm3: volumes = {}, files = {} }) => h("tr",
    h("th.words", { scope: "row" }, h("a", { href: address("#/look", { folder: shown, case: id }) }, id)),
    h("td.words", error || (level ? h("span", { class: `rating ${level}` }, level) : "–")),
    h("td.words", Object.entries(volumes).map(volumeOf)),
    h("td.words", Object.entries(files).filter(([file]) => !file.endsWith(".png")).map(([file, place]) => (
      h("div", h("a", { href: fileAddress(place, { save: 1 }), download: "" }, file))))));
  const pages = pager(async (asked) => {
    const found = await get("/api/predict/results", { path: shown, ...asked }).catch(() => null);
    const heads = ["case", "rating", "volumes (cm³)", "files"].map((word) => h("th.words", word));
    pages.box.hidden = !found;
    render(table, found && h("table", h("thead", h("tr", heads)), h("tbody", found.cases.map(row))));
    render(report, found && found.quality
      && h("iframe.result", { title: "Quality report", src: fileAddress(found.quality, { turn }) }));
    return found;
  });
  const open = (path) => { shown = path; pages.open(1); };
  const show = async (job) => {
    const { folders } = await get("/api/predict/folders").catch(() => ({ folders: [] }));
    const { result } = job ? await get("/api/job", { id: job.id }).catch(() => ({})) : {};
    const path = job && folders.includes(job.values.out) ? job.values.out : shown || folders.at(-1);
    const refused = ((result || {}).cases || []).filter((each) => each.outcome === "refused");
    const list = path && select(folders.map((each) => [each, name(each)]), path, open);
    render(top, path ? field("Results in", list) : soft("Nothing predicted yet."),
      refused.map((each) => h("p.error", `${each.case}: ${each.messages.join(" ")}`)));
    turn += 1; // the report of the same folder is another one now
    if (path) open(path);
  };
  pages.box.hidden = true;
  return { parts: [top, pages.box, table, report], show };
};

const mount = (root, given) => {
  const models = h("div.form"), note = h("p.soft", { role: "status" }), newest = turns(), results = resultList();
  const values = { dataset: given.dataset || "", model: "" };
  let hasLines = false;
  const set = (key) => (value) => { values[key] = value; box.refresh(); };
  const lines = limits(() => box.refresh());
  const out = h("input", { type: "text", pattern: "[A-Za-z0-9_][A-Za-z0-9_. \\-]*", oninput: () => box.refresh() });
  const scans = scanChooser(() => {
    const [first] = scans.chosen.cases;
    if (first && !out.value) out.value = `${first.case}-${new Date().toISOString().slice(0, 10)}`;
    preview();
  });

  const showModels = ({ datasets }) => {
    const finished = (each) => each.runs.filter((run) => ["done", "unpacked"].includes(run.state));
    const ready = datasets.filter((each) => finished(each).length);
    const of = ready.find((each) => each.name === values.dataset) || ready[0];
    values.dataset = of ? of.name : "";
    if (!of) { render(models, soft("No training has finished yet. Train a model, or unpack one.")); return; }
    const keys = new Set(finished(of).map((run) => JSON.stringify([run.configuration, run.model, run.budget])));
    const options = [["", "the best known"], ...[...keys].map((key) => [key, JSON.parse(key).join(", ")])];
    const choose = (dataset) => { Object.assign(values, { dataset, model: "" }); update(server.state); };
    render(models, field("Dataset", select(ready.map((each) => each.name), of.name, choose)),
      field("Model", select(options, values.model, set("model")),
        "The best known is what select chose, else the one with the highest Dice on its own validation."));
  };
  const preview = async () => {
    const isMine = newest(), { inputs, cases, series, kind } = scans.chosen;
    lines.set(null);
    box.refresh();
    const start = cases.length ? "Reading the scan …" : "Choose a scan first.";
    note.textContent = hasLines ? start : "";
    if (!hasLines || !cases.length) return;
    const scan = { inputs, case: cases[0].case, series, kind };
    const view = await post("/api/predict/preview", scan).catch((error) => ({ error: error.message }));
    if (!isMine()) return;
    lines.set(view.error ? null : view);
    const all = cases.length > 1 ? " All scans are cut at the same millimetres." : "";
    note.textContent = view.error || `${cases[0].case}: drag the lines, or focus one and press the arrow keys.${all}`;
  };
  const box = commandBox("Predict", () => {
    const { inputs, series, kind } = scans.chosen, { model, ...rest } = values;
    if (!inputs.length) return "Choose a scan first.";
    if (!rest.dataset) return "Train a model first.";
    if (!out.value || !out.checkValidity()) return "Give the results a name of letters and digits.";
    const [configuration = [], network, budget] = model ? JSON.parse(model) : [];
    return { command: "predict", values: {
      ...rest, inputs, out: `${server.state.workspace}/predictions/${out.value}`, ...lines.values(),
      configuration, model: network, budget, series, image_type: kind,
    } };
  }, { mine: (job) => job.command === "predict", onDone: results.show });

  root.append(
    h("section", h("h2", "Scans to predict"), scans.parts),
    h("section", h("h2", "Model"), models),
    h("section", h("h2", "Slices"), tick("Between two lines", (on) => { hasLines = on; preview(); }), note, lines.box),
    h("section", h("h2", "Output"), h("div.form", field("Name", out),
      field("Cleaning", select(CLEANING, "", set("clean"))), field("Side", select(SIDES, "", set("side"))),
      h("div", { role: "group", "aria-label": "Also write" },
        Object.entries(ALSO).map(([key, text]) => tick(text, set(key))))),
    box.box),
    h("section", h("h2", "Predicted"), results.parts));
  results.show(null);
  const update = (state) => { showModels(state); box.update(state); };
  return { update, show: () => results.show(null) };
};

export default { title: "Predict", mount };
