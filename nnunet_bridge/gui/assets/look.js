/* Step 4: a case in three planes, with its labels, a prediction, their scores and surfaces. */
import { choosePath, field, fill, get, h, name, number, pageRow, select } from "/assets/kit.js";
import { showSurfaces } from "/assets/surfaces.js";
import { readVolume, sliceViewer } from "/assets/viewer.js";

const COLUMNS = [["dice", "Dice", 4], ["hd95_mm", "HD95 (mm)", 2], ["assd_mm", "ASSD (mm)", 3], ["nsd", "NSD (1 mm)", 4],
  ["volume_reference_mm3", "volume (mm³)", 0], ["volume_prediction_mm3", "predicted (mm³)", 0], ["volume_error_percent", "error (%)", 1]];
const IMAGES = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".mgz", ".mgh", ".zip", ".dcm"];
const LABELMAPS = [".nii.gz", ".nii", ".nrrd", ".mha"];

/* The values that a request has. */
const given = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value));

/* Show surfaces of a case as the comparison page does; returns a function that ends it. */
const showScene = (place, { case: found, scale_mm: scale }) => {
  const choices = [["Case", "case"], ["Surfaces of", "source"], ["Structures", "structure"], ["Colour", "colour"], ["Seen from", "camera"]];
  const box = h("div", {},
    h("div", { class: "tools" }, choices.map(([label, id]) => h("div", { class: "choice", role: "group", "aria-label": label, "data-choice": id, hidden: id === "case" }))),
    h("div", { class: "scene" },
      h("canvas", { tabindex: "0", role: "img", "aria-label": "Surfaces of the structures. Arrow keys rotate, Shift and arrow keys pan, plus and minus zoom, 0 shows everything." }),
      ["l", "r", "t", "bo"].map((side) => h("b", { class: side }))),
    h("p", { class: "legend about" }),
    h("p", { class: "scale" }, h("span", {}, `−${scale} mm, too small`), h("i"), h("span", {}, `+${scale} mm, too large`)),
    h("p", { class: "legend by-structure" }),
    h("p", { class: "hint" }, "Drag to rotate, with Shift to pan; click and scroll to zoom; double-click to see everything. Simplified for display: do not measure."));
  place.replaceChildren(box);
  return showSurfaces(box, [found], [found.meshes.at(-1).name], { onCase: () => null, showCase: () => null });
};

export default {
  title: "Look",
  mount(root, values) {
    const viewer = sliceViewer();
    const problem = h("p", { class: "error", role: "alert", hidden: true });
    const note = h("p", { class: "soft", role: "status" });
    const say = (text) => { problem.textContent = text || ""; problem.hidden = !text; };
    const scores = h("div", { class: "scroll" });
    const surfaces = h("div");
    const source = h("span"), choices = h("div", { class: "form" }), pages = h("span", { class: "row" });
    const find = h("input", { type: "search" });
    const kept = {}; // what was read last of each part
    let asked = {}, listed = { cases: [], total: 0 }, shown = {}, turn = 0, endSurfaces = () => null;

    /* --- What is shown: an image, labels and a prediction, each loaded when it is chosen --- */
    const load = async (part, path, query, mine) => {
      if (!path || mine !== turn) return null;
      note.textContent = `Reading the ${part} …`;
      const key = JSON.stringify([path, query]);
      try { if (!kept[part] || kept[part].key !== key) kept[part] = { key, volume: await readVolume(path, query) }; }
      catch (error) { if (mine === turn) say(error.message); return null; }
      if (mine === turn) viewer.show(part, kept[part].volume);
      return kept[part].volume;
    };
    const clear = () => {
      turn += 1;
      endSurfaces();
      endSurfaces = () => null;
      surfaces.replaceChildren();
      scores.replaceChildren();
      say("");
    };
    /* Fetch something of the case for a part of the page, unless another case is shown meanwhile. */
    const fetchFor = async (box, text, what, query, build) => {
      const mine = turn;
      const { reference, prediction, case: found } = shown;
      box.replaceChildren(h("p", { class: "soft" }, text));
      try {
        const answer = await get(`/api/look/${what}`, given({ case: found, dataset: asked.dataset, reference, prediction, ...query }));
        if (mine === turn) build(answer);
      } catch (error) { if (mine === turn) box.replaceChildren(h("p", { class: "error" }, error.message)); }
    };
    const showScores = (compute = 0) => fetchFor(scores, compute ? "Measuring …" : "Reading the scores …", "scores", { compute }, ({ rows, source: table }) => {
      const columns = COLUMNS.filter(([key]) => rows.some((row) => typeof row[key] === "number"));
      scores.replaceChildren(
        rows.length ? h("table", {}, h("caption", { class: "soft" }, table ? `Scores of this case, from ${name(table)}` : "Scores of this case"),
          h("thead", {}, h("tr", {}, h("th", {}, "structure"), columns.map(([, label]) => h("th", {}, label)))),
          h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.structure), columns.map(([key, , digits]) => h("td", {}, number(row[key], digits))))))) : "",
        shown.reference && !compute ? h("button", { type: "button", onclick: () => showScores(1) }, rows.length ? "Measure surface distances" : "Measure against the labels") : "");
    });
    const surfacesOf = () => fetchFor(surfaces, "Making surfaces …", "surfaces", { name: shown.run }, (answer) => { endSurfaces = showScene(surfaces, answer); });
    const display = async (found) => {
      clear();
      const mine = turn;
      shown = found;
      const scan = found.inputs && given({ inputs: JSON.stringify(found.inputs), case: found.inCase, series: found.series, kind: found.kind });
      if (!scan || !kept.image || kept.image.key !== JSON.stringify(["/api/look/image", scan])) viewer.show("image", null);
      const image = await load("image", scan && "/api/look/image", scan, mine);
      const labelsOf = (path, under) => path && given({ path, onto: under && JSON.stringify(under.source), dataset: asked.dataset });
      const labels = await load("labels", found.reference && "/api/look/labels", labelsOf(found.reference, image), mine);
      await load("prediction", found.prediction && "/api/look/labels", labelsOf(found.prediction, image || labels), mine);
      if (mine !== turn) return;
      const hint = scan ? [] : ["Open the image of this case to see it under the labels."];
      const thin = image && image.spared > 1 ? `Every ${image.spared}th row and column is shown: the image is large.` : "";
      note.textContent = [thin, ...(image ? image.findings : hint)].filter(Boolean).join(" ");
      if (found.reference || found.prediction) surfaces.replaceChildren(h("button", { type: "button", onclick: surfacesOf }, "Show surfaces"));
      if (found.prediction) showScores();
    };

    /* --- What there is --- */
    const chooseCase = (found, run, channel = 0) => {
      const runs = Object.keys(found.predictions);
      const chosen = run === "" || runs.includes(run) ? run : runs[0];
      fill(choices, [listed, found, chosen, channel], () => [
        field("Case", select(listed.cases.map((each) => each.case), found.case, (id) => chooseCase(listed.cases.find((each) => each.case === id), chosen || undefined))),
        runs.length && field("Prediction", select([["", "none"], ...runs], chosen, (each) => chooseCase(found, each, channel))),
        found.images.length > 1 && field("Channel", select(found.images.map((file, n) => [String(n), name(file)]), String(channel), (n) => chooseCase(found, chosen, Number(n)))),
      ]);
      const inputs = found.images.length ? [found.images[channel]] : listed.inputs;
      display({ case: found.case, inputs, inCase: found.images.length ? "" : found.case, series: listed.series, kind: listed.image_type,
        reference: found.reference, prediction: found.predictions[chosen], run: chosen });
      return null;
    };
    const list = async (start = 0, wanted = "", run = undefined) => {
      const mine = (turn += 1);
      try {
        const found = await get("/api/look/cases", { ...asked, start, find: wanted || find.value });
        if (mine !== turn) return;
        listed = found;
        pages.replaceChildren(pageRow(start, listed.cases.length, listed.total, list));
        const first = listed.cases.find((each) => each.case === wanted) || listed.cases[0];
        if (first) { chooseCase(first, run); return; }
        fill(choices, "", () => null);
        clear();
        viewer.show("image", null);
        note.textContent = "No case.";
      } catch (error) { say(error.message); }
    };
    const from = (next) => {
      asked = next;
      find.value = "";
      list();
    };
    const openFile = async (title, endings) => {
      const path = await choosePath(title, { endings });
      if (path && endings === LABELMAPS) display({ case: name(path), ...shown, prediction: path, run: name(path) });
      else if (path) display({ case: name(path), ...(shown.inputs ? {} : shown), inCase: "", inputs: [path], series: "", kind: "" });
    };
    let waiting = 0;
    find.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => list(), 300); });
    root.append(h("section", {}, h("h2", {}, "Look"),
      h("div", { class: "form" }, source, field("Find a case", find), choices),
      h("div", { class: "row" }, pages,
        h("button", { type: "button", onclick: async () => { const path = await choosePath("A folder of predictions"); if (path) from({ folder: path }); } }, "Folder of predictions…"),
        h("button", { type: "button", onclick: () => openFile("An image", IMAGES) }, "Open an image…"),
        h("button", { type: "button", onclick: () => openFile("A folder of DICOM files", null) }, "Open a DICOM folder…"),
        h("button", { type: "button", onclick: () => openFile("A labelmap", LABELMAPS) }, "Open a labelmap…")),
      problem, note, viewer.box),
    h("section", {}, h("h2", {}, "Scores and surfaces"), scores, surfaces));

    const show = ({ folder, dataset, part = "Tr", case: wanted, run }) => {
      if (folder || dataset) asked = folder ? { folder } : { dataset, part };
      if (folder || dataset) list(0, wanted, run);
    };
    const update = (state) => {
      const ready = state.datasets.filter((each) => each.converted).map((each) => each.name);
      if (!asked.folder && !asked.dataset && ready.length) from({ dataset: ready[0], part: "Tr" });
      const sources = ready.flatMap((dataset) => [[{ dataset, part: "Tr" }, `${dataset}, training cases`], [{ dataset, part: "Ts" }, `${dataset}, test cases`]]);
      if (asked.folder) sources.push([asked, asked.folder]);
      const words = sources.map(([each, text]) => [JSON.stringify(each), text]);
      fill(source, [words, asked], () => (words.length ? field("Cases of", select(words, JSON.stringify(asked), (word) => from(JSON.parse(word)))) : h("p", { class: "soft" }, "No dataset yet: convert a study, or open an image.")));
    };
    show(values);
    return { update, show, leave: clear };
  },
};
