/* Step 5: scans from the browser or this machine, a model, the slices, and what was predicted. */
import { choosePath, commandBox, field, fileAddress, get, h, name, pageRow, post, select, server } from "/assets/kit.js";
import { slicesOf } from "/assets/shared.js";

const IMAGE = /\.(nii|gz|nrrd|nhdr|mha|mhd|mgz|mgh|zip|z?raw)$/i;
const EXACT = 100; // of a millimetre: limits are rounded outwards

/* The files of an entry of a drop, each with its folders. */
const filesOf = async (entry, folder = "") => {
  if (entry instanceof File) return [[entry.name, entry]];
  if (entry.isFile) return [[folder + entry.name, await new Promise((done, failed) => entry.file(done, failed))]];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const each of some) found.push(...await filesOf(each, `${folder}${entry.name}/`));
  }
};
/* The list of items is empty after the first await. */
const dropped = async ({ items }) => {
  const entries = [...items].map((item) => item.webkitGetAsEntry() || item.getAsFile()).filter(Boolean);
  return (await Promise.all(entries.map((entry) => filesOf(entry)))).flat();
};

/* A picture across the slices, with two lines; `values` are the limits in mm, `null` where all slices are between. */
const limits = (changed) => {
  const picture = h("img", { alt: "The scan from the side", draggable: false });
  const letters = ["l", "r", "t", "bo"].map((side) => h("b", { class: side }));
  const box = h("div", { class: "stage limits", hidden: true }, picture, letters);
  let positions = [], rows = [0, 0];
  const lines = ["Upper limit", "Lower limit"].map((label, end) => {
    const line = h("div", { class: end ? "limit lower" : "limit", role: "slider", tabindex: "0", "aria-label": label, "aria-orientation": "vertical" }, h("span"));
    const move = (row) => { rows[end] = end ? Math.min(positions.length - 1, Math.max(rows[0], row)) : Math.min(rows[1], Math.max(0, row)); show(); };
    line.addEventListener("keydown", (event) => {
      const step = slicesOf(event.key, positions.length);
      if (step) { move(rows[end] + step); event.preventDefault(); }
    });
    line.addEventListener("pointerdown", (event) => { line.setPointerCapture(event.pointerId); line.focus(); event.preventDefault(); });
    line.addEventListener("pointermove", (event) => {
      if (!line.hasPointerCapture(event.pointerId)) return;
      const { top, height } = picture.getBoundingClientRect();
      move(Math.round((event.clientY - top) / height * positions.length) - end);
    });
    return line;
  });
  box.append(...lines);
  const values = () => {
    if (!positions.length || (rows[0] === 0 && rows[1] === positions.length - 1)) return { from_mm: null, to_mm: null };
    const [low, high] = rows.map((row) => positions[row]).sort((a, b) => a - b);
    return { from_mm: (Math.floor(low * EXACT) / EXACT).toFixed(2), to_mm: (Math.ceil(high * EXACT) / EXACT).toFixed(2) };
  };
  const show = () => {
    lines.forEach((line, end) => {
      line.style.top = `${100 * (rows[end] + end) / positions.length}%`;
      line.firstChild.textContent = `${positions[rows[end]].toFixed(1)} mm`;
      const values = { min: Math.min(...positions), max: Math.max(...positions), now: positions[rows[end]], text: line.textContent };
      for (const [key, value] of Object.entries(values)) line.setAttribute(`aria-value${key}`, value);
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

export default {
  title: "Predict",
  mount(root, start) {
    const chosen = { inputs: [], upload: null, cases: [], series: "", kind: "", dataset: start.dataset || "", model: "", region: "all" };
    const problem = h("p", { class: "error", role: "alert" });
    const say = (text) => { problem.textContent = text; };
    const progress = h("progress", { max: 1, hidden: true, "aria-label": "Upload" });
    const note = h("p", { class: "soft", role: "status" });
    const found = h("div"), models = h("div", { class: "form" }), regionProblem = h("p", { class: "soft", role: "status" });
    const lines = limits(() => { box.refresh(); });
    let turn = 0;

    /* --- Scans --- */
    const take = async (paths, upload = null) => {
      const mine = (turn += 1);
      Object.assign(chosen, { inputs: paths, upload, cases: [], series: "", kind: "" });
      lines.set(null);
      say("");
      note.textContent = paths.length ? "Looking through the files …" : "";
      try {
        const { cases } = paths.length ? await get("/api/predict/inputs", { inputs: JSON.stringify(paths) }) : { cases: [] };
        if (mine !== turn) return;
        chosen.cases = cases;
        if (paths.length) note.textContent = `${cases.length} ${cases.length === 1 ? "scan" : "scans"}`;
        if (cases.length && !out.value) out.value = `${cases[0].case}-${new Date().toISOString().slice(0, 10)}`;
      } catch (error) {
        if (mine !== turn) return;
        note.textContent = "";
        say(error.message);
      }
      preview();
      showScans();
    };
    const showScans = () => {
      const series = chosen.cases.flatMap((each) => each.series);
      const several = chosen.cases.some((each) => each.series.length > 1);
      const words = [...new Map(series.map((one) => [one.word, one])).values()];
      const kinds = [...new Set(series.flatMap((one) => one.kinds))];
      const changed = (key) => (value) => { chosen[key] = value; preview(); box.refresh(); };
      found.replaceChildren(...(chosen.inputs.length ? [
        h("ul", { class: "soft" }, chosen.cases.slice(0, 20).map((each) => h("li", {}, each.case)), chosen.cases.length > 20 ? h("li", {}, `and ${chosen.cases.length - 20} more`) : null),
        h("div", { class: "form" },
          several ? field("Series", select([["", "the only one that fits"], ...words.map((one) => [one.word, `${one.number} ${one.description} (${one.slices} slices)`])], chosen.series, changed("series")), "This folder holds several series.") : null,
          kinds.length > 1 ? field("Image type", select([["", "any"], ...kinds.map((word) => [word, word])], chosen.kind, changed("kind"))) : null,
          chosen.upload ? h("button", { type: "button", onclick: forget }, "Remove the uploaded files") : null)] : []));
      box.refresh();
    };
    const forget = () => post("/api/uploads/remove", { id: chosen.upload }).then(() => take([]), (error) => say(error.message));
    const upload = async (files) => {
      const sent = files.filter(([path]) => !path.split("/").some((part) => part.startsWith(".")));
      if (!sent.length) return;
      say("");
      progress.hidden = false;
      const whole = sent.reduce((sum, [, file]) => sum + file.size, 0) || 1;
      /* Loose files without an ending of an image are the slices of one DICOM scan. */
      const loose = sent.every(([path]) => !path.includes("/") && !IMAGE.test(path));
      let made = null, done = 0;
      try {
        made = await post("/api/uploads", {});
        const tops = new Set();
        for (const [path, file] of sent) {
          note.textContent = `Uploading ${name(path)} …`;
          progress.value = done / whole;
          const answer = await post(`/api/uploads/${made.id}?${new URLSearchParams({ name: loose ? `scan/${path}` : path })}`, file);
          done += file.size;
          tops.add(`${made.path}/${answer.path.slice(made.path.length + 1).split("/")[0]}`);
        }
        await take([...tops], made.id);
      } catch (error) {
        note.textContent = "";
        say(error.message);
        if (made) post("/api/uploads/remove", { id: made.id }).catch(() => null);
      } finally { progress.hidden = true; }
    };
    const picker = (label, properties) => {
      const input = h("input", { type: "file", multiple: true, hidden: true, ...properties });
      input.addEventListener("change", () => { upload([...input.files].map((file) => [file.webkitRelativePath || file.name, file])); input.value = ""; });
      return [h("button", { type: "button", onclick: () => input.click() }, label), input];
    };
    const over = (on) => (event) => { event.preventDefault(); drop.classList.toggle("over", on); };
    const drop = h("div", { class: "drop", ondragover: over(true), ondragleave: over(false) }, h("p", {}, "Drop a folder, files or a zip here: DICOM, NIfTI, NRRD or MetaImage."), h("div", { class: "row" },
      picker("Choose files…", {}), picker("Choose a folder…", { webkitdirectory: true }),
      h("button", { type: "button", onclick: async () => { const path = await choosePath("A folder of scans"); if (path) take([path]); } }, "Choose a folder on this machine…")));
    drop.addEventListener("drop", (event) => { over(false)(event); dropped(event.dataTransfer).then(upload).catch((error) => say(error.message)); });

    /* --- Model and region --- */
    const showModels = async (state) => {
      const finished = (each) => each.runs.filter((run) => ["done", "unpacked"].includes(run.state));
      const ready = state.datasets.filter((each) => finished(each).length);
      if (!ready.some((each) => each.name === chosen.dataset)) chosen.dataset = ready.length ? ready[0].name : "";
      const of = ready.find((each) => each.name === chosen.dataset);
      const keys = of ? [...new Set(finished(of).map((run) => JSON.stringify([run.configuration, run.model, run.budget])))] : [];
      const key = JSON.stringify([ready.map((each) => each.name), chosen.dataset, keys]);
      if (models.dataset.key === key) return;
      models.dataset.key = key;
      const usual = of ? await get("/api/predict/models", { dataset: of.name }).catch(() => ({})) : {};
      models.replaceChildren(...(of ? [
        field("Dataset", select(ready.map((each) => each.name), of.name, (value) => { Object.assign(chosen, { dataset: value, model: "" }); showModels(server.state); box.refresh(); })),
        field("Model", select([["", usual.default ? `${usual.default} (the default)` : "the default"], ...keys.map((word) => [word, JSON.parse(word).join(", ")])], chosen.model, (value) => { chosen.model = value; box.refresh(); }), usual.reason || "")]
        : [h("p", { class: "soft" }, "No training has finished yet. Train a model, or unpack one.")]));
      box.refresh();
    };
    const preview = async () => {
      const mine = turn;
      lines.set(null);
      regionProblem.textContent = chosen.region === "auto" ? "A coarse first pass finds the structures; 20 mm are kept around them." : "";
      if (chosen.region !== "lines") return;
      if (!chosen.cases.length) { regionProblem.textContent = "Choose a scan first."; return; }
      regionProblem.textContent = "Reading the scan …";
      try {
        const view = await get("/api/predict/preview", { inputs: JSON.stringify(chosen.inputs), case: chosen.cases[0].case, series: chosen.series, kind: chosen.kind });
        if (mine !== turn || chosen.region !== "lines") return;
        lines.set(view);
        regionProblem.textContent = `${chosen.cases[0].case}: drag the lines, or focus one and press the arrow keys.${chosen.cases.length > 1 ? " All scans are cut at the same millimetres." : ""}`;
      } catch (error) { if (mine === turn) regionProblem.textContent = error.message; }
    };
    const regions = [["all", "the whole scan"], ["lines", "between two lines"], ["auto", "found automatically"]].map(([value, text]) => {
      const changed = () => { chosen.region = value; preview(); box.refresh(); };
      return h("label", { class: "row" }, h("input", { type: "radio", name: "region", value, checked: value === "all", onchange: changed }), text);
    });

    /* --- Options and command --- */
    const refresh = () => box.refresh();
    const [mesh, nrrd, seg] = [0, 1, 2].map(() => h("input", { type: "checkbox", onchange: refresh }));
    const also = [[mesh, "meshes (PLY)"], [nrrd, "3D Slicer (.seg.nrrd)"], [seg, "DICOM SEG (with the patient's name)"]];
    const clean = select([["none", "none"], ["slice", "slice by slice"], ["volume", "in three dimensions"], ["tuned", "tuned for the model"]], "none", refresh);
    const side = select([["", "both"], ["left", "left only"], ["right", "right only"]], "", refresh);
    const out = h("input", { type: "text", pattern: "[A-Za-z0-9_][A-Za-z0-9_. \\-]*", oninput: refresh });
    const box = commandBox("Predict", () => {
      if (!chosen.inputs.length) return "Choose a scan first.";
      if (!chosen.dataset) return "Train a model first.";
      if (!out.value || !out.checkValidity()) return "Give the results a name of letters and digits.";
      const [configuration, model, budget] = chosen.model ? JSON.parse(chosen.model) : [null, null, null];
      return { command: "predict", values: {
        dataset: chosen.dataset, inputs: chosen.inputs, out: `${server.state.workspace}/predictions/${out.value}`, configuration: configuration ? [configuration] : [], model, budget,
        ...(chosen.region === "lines" ? lines.values() : {}), region: chosen.region === "auto" ? "auto" : null,
        series: chosen.series, image_type: chosen.kind, clean: clean.value === "none" ? null : clean.value, side: side.value,
        mesh: mesh.checked, seg_nrrd: nrrd.checked, dicom_seg: seg.checked } };
    }, { mine: (job) => job.command === "predict", onDone: (job) => showResults(job) });

    /* --- Results --- */
    const results = h("div", { "aria-live": "polite" }), folders = h("div");
    const showResults = async (job) => {
      const { folders: there } = await get("/api/predict/folders").catch(() => ({ folders: [] }));
      const path = job && job.values && there.includes(job.values.out) ? job.values.out : there[there.length - 1];
      folders.replaceChildren(...(there.length ? [field("Results in", select(there.map((each) => [each, name(each)]), path, (each) => showFolder(each)))] : [h("p", { class: "soft" }, "Nothing predicted yet.")]));
      const ended = job ? await get("/api/job", { id: job.id }).catch(() => ({})) : {};
      const refused = ((ended.result || {}).cases || []).filter((each) => each.outcome === "refused");
      if (path) await showFolder(path);
      results.prepend(...refused.map((each) => h("p", { class: "error" }, `${each.case}: ${each.messages.join(" ")}`)));
    };
    const showFolder = async (path, first = 0) => {
      const { cases, quality, total } = await get("/api/predict/results", { path, start: first }).catch((error) => { say(error.message); return { cases: [], total: 0 }; });
      results.replaceChildren(
        h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["case", "rating", "volumes (cm³)", "files"].map((word) => h("th", { class: "words" }, word)))),
          h("tbody", {}, cases.map((each) => h("tr", {}, h("th", { scope: "row", class: "words" }, h("a", { href: `#/look?${new URLSearchParams({ folder: path, case: each.case })}` }, each.case)),
            h("td", { class: "words" }, each.error || (each.level ? h("span", { class: `rating ${each.level}` }, each.level) : "–")),
            h("td", { class: "words" }, Object.entries(each.volumes_mm3 || {}).map(([structure, volume]) => h("div", {}, `${structure} ${(volume / 1000).toFixed(1)}`))),
            h("td", { class: "words" }, Object.entries(each.files || {}).filter(([file]) => !file.endsWith(".png")).map(([file, place]) => h("div", {}, h("a", { href: fileAddress(place, true), download: "" }, file)))),
          ))))),
        pageRow(first, cases.length, total, (next) => showFolder(path, next)),
        ...(quality ? [h("iframe", { class: "result", title: "Quality report", src: fileAddress(quality) })] : []));
    };

    root.append(
      h("section", {}, h("h2", {}, "Scans to predict"), drop, progress, note, found, problem),
      h("section", {}, h("h2", {}, "Model"), models),
      h("section", {}, h("h2", {}, "Slices"), h("div", { class: "row", role: "radiogroup", "aria-label": "Slices" }, regions), regionProblem, lines.box),
      h("section", {}, h("h2", {}, "Output"), h("div", { class: "form" }, field("Name", out), field("Cleaning", clean), field("Side of the body", side), h("div", { role: "group", "aria-label": "Also write" }, also.map((one) => h("label", { class: "row" }, one)))), box.box),
      h("section", {}, h("h2", {}, "Predicted"), folders, results));
    showResults(null);
    return { update: (state) => { showModels(state); box.update(state); } };
  },
};
