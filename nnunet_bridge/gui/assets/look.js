/* Step 4: a case in three planes, with its labels, a prediction, their scores and surfaces. */
import {
  chooseFolder, field, get, name, number, pager, post, render, select, server, soft, trouble, turns,
} from "/assets/kit.js";
import { h, put } from "/assets/shared.js";
import { showSurfaces } from "/assets/surfaces.js";
import { readVolume, sliceViewer } from "/assets/viewer.js";

const COLUMNS = [
  ["dice", "Dice", 4], ["hd95_mm", "HD95 (mm)", 2], ["assd_mm", "ASSD (mm)", 3], ["nsd", "NSD (1 mm)", 4],
  ["volume_reference_mm3", "volume (mm³)", 0], ["volume_prediction_mm3", "predicted (mm³)", 0],
  ["volume_error_percent", "error (%)", 1],
];

const scoreTable = (rows, source) => {
  const columns = COLUMNS.filter(([key]) => rows.some((row) => typeof row[key] === "number"));
  return h("table", h("caption.soft", `Scores of this case${source ? `, from ${name(source)}` : ""}`),
    h("thead", h("tr", h("th", "structure"), columns.map(([, label]) => h("th", label)))),
    h("tbody", rows.map((row) => h("tr", h("th", { scope: "row" }, row.structure),
      columns.map(([key, , digits]) => h("td", number(row[key], digits)))))));
};

const mount = (root, values) => {
  const viewer = sliceViewer(), problem = trouble(), newest = turns();
  const note = h("p.soft", { role: "status" }), scores = h("div.scroll"), surfaces = h("div");
  const source = h("span"), choices = h("div.form");
  const kept = {}; // what was read last of each part
  let asked = {}, listed = { cases: [] }, shown = {}, isShown = () => false, endSurfaces = () => null;

  /* --- What is shown: an image, labels and a prediction, each loaded when it is chosen --- */
  const keyOf = (path, query) => JSON.stringify([path, query]);
  const isKept = (part, path, query) => kept[part] && kept[part].key === keyOf(path, query);
  const load = async (part, path, query, isMine) => {
    if (!path || !isMine()) return null;
    note.textContent = `Reading the ${part} …`;
    try {
      if (!isKept(part, path, query)) kept[part] = { key: keyOf(path, query), volume: await readVolume(path, query) };
    } catch (error) { if (isMine()) problem.say(error.message); return null; }
    if (isMine()) viewer.show(part, kept[part].volume);
    return kept[part].volume;
  };
  const clear = () => {
    endSurfaces();
    endSurfaces = () => null;
    put(surfaces);
    put(scores);
    problem.say();
    isShown = newest();
    return isShown;
  };
  /* Fetch something of the case for a part of the page, unless another case is shown meanwhile. */
  const fetchFor = async (box, text, what, query, build) => {
    const isMine = isShown, { reference, prediction, case: found } = shown;
    put(box, soft(text));
    try {
      const values = { case: found, dataset: asked.dataset, reference, prediction, ...query };
      const answer = await post(`/api/look/${what}`, values);
      if (isMine()) build(answer);
    } catch (error) { if (isMine()) put(box, h("p.error", error.message)); }
  };
  const showScores = (compute = false) => {
    const text = compute ? "Measuring …" : "Reading the scores …";
    return fetchFor(scores, text, "scores", { compute }, ({ rows, source: table }) => put(scores,
      rows.length > 0 && scoreTable(rows, table),
      shown.reference && !compute && h("button", { onclick: () => showScores(true) },
        rows.length ? "Measure surface distances" : "Measure against the labels")));
  };
  const showScene = ({ case: found, scale_mm: scale }) => {
    const box = h("div", { "data-scale": scale });
    put(surfaces, box);
    endSurfaces = showSurfaces(box, [found], [found.meshes.at(-1).name], { onCase: () => null, showCase: () => null });
  };
  const surfacesOf = () => fetchFor(surfaces, "Making surfaces …", "surfaces", { name: shown.run }, showScene);
  const display = async (found) => {
    const isMine = clear();
    shown = found;
    const { inputs, inCase, series, kind } = found;
    const scan = inputs && { inputs, case: inCase, series, kind };
    if (!scan || !isKept("image", "/api/look/image", scan)) viewer.show("image", null);
    const image = await load("image", scan && "/api/look/image", scan, isMine);
    const labelsOf = (part, path, under) => load(part, path && "/api/look/labels",
      { path, onto: under && under.source, dataset: asked.dataset }, isMine);
    const labels = await labelsOf("labels", found.reference, image);
    await labelsOf("prediction", found.prediction, image || labels);
    if (!isMine()) return;
    const hint = scan ? [] : ["The image of this case is not known."];
    const thin = image && image.spared > 1 && `Every ${image.spared}th row and column is shown: the image is large.`;
    note.textContent = [thin, ...(image ? image.findings : hint)].filter(Boolean).join(" ");
    put(surfaces, (found.reference || found.prediction) && h("button", { onclick: surfacesOf }, "Show surfaces"));
    if (found.prediction) showScores();
  };

  /* --- What there is --- */
  const chooseCase = (found, run, channel = 0) => {
    const { images, predictions } = found;
    const made = server.state.jobs.find(({ command, values }) => command === "predict" && values.out === asked.folder);
    const { inputs, series, image_type: kind } = made ? made.values : {};
    const runs = Object.keys(predictions), isRead = images.length > 0;
    const chosen = run === "" || runs.includes(run) ? run : runs[0];
    const other = (id) => chooseCase(listed.cases.find((each) => each.case === id), chosen);
    const channels = images.map((file, n) => [String(n), name(file)]);
    render(choices,
      field("Case", select(listed.cases.map((each) => each.case), found.case, other)),
      runs.length > 0 && field("Prediction",
        select([["", "none"], ...runs], chosen, (each) => chooseCase(found, each, channel))),
      images.length > 1 && field("Channel",
        select(channels, String(channel), (n) => chooseCase(found, chosen, Number(n)))));
    display({
      case: found.case, inCase: isRead ? "" : found.case, inputs: isRead ? [images[channel]] : inputs, series, kind,
      reference: found.reference, prediction: predictions[chosen], run: chosen,
    });
  };
  let wanted = {}; // case and run of the address
  const pages = pager(async (query) => {
    const isMine = newest();
    const found = await problem.attempt(() => get("/api/look/cases", { ...asked, ...query }));
    if (!found || !isMine()) return null;
    listed = found;
    const first = found.cases.find((each) => each.case === wanted.case) || found.cases[0];
    if (first) { chooseCase(first, wanted.run); return found; }
    put(choices);
    clear();
    viewer.show("image", null);
    note.textContent = "No case.";
    return found;
  });
  const from = (next, target = {}) => {
    [asked, wanted] = [next, target];
    pages.search.value = target.case || "";
    pages.open(1);
  };
  const openFolder = async () => {
    const folder = await chooseFolder("A folder of predictions");
    if (folder) { from({ folder }); update(server.state); }
  };
  root.append(
    h("section", h("h2", "Look"), h("div.form", source, choices), pages.box,
      h("div.row", h("button", { onclick: openFolder }, "Folder of predictions…")), problem.box, note, viewer.box),
    h("section", h("h2", "Scores and surfaces"), scores, surfaces));

  const show = ({ folder, dataset, part = "Tr", ...target }) => {
    if (folder || dataset) from(folder ? { folder } : { dataset, part }, target);
    else if (asked.folder || asked.dataset) { wanted = { case: shown.case, run: shown.run }; pages.open(); } // new runs
  };
  const update = ({ datasets }) => {
    const ready = datasets.filter((each) => each.converted).map((each) => each.name);
    if (!asked.folder && !asked.dataset && ready.length) from({ dataset: ready[0], part: "Tr" });
    const sources = ready.flatMap((dataset) => [["Tr", "training"], ["Ts", "test"]].map(([part, text]) => (
      [{ dataset, part }, `${dataset}, ${text} cases`])));
    if (asked.folder) sources.push([asked, asked.folder]);
    const words = sources.map(([each, text]) => [JSON.stringify(each), text]);
    const list = select(words, JSON.stringify(asked), (word) => from(JSON.parse(word)));
    render(source, words.length ? field("Cases of", list)
      : soft("No dataset yet: convert a study, or open a folder of predictions."));
  };
  show(values);
  return { update, show };
};

export default { title: "Look", mount };
