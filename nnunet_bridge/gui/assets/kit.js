/* What all views share: elements, requests, the state of the server, commands and the browser of folders.
   Text from files only ever becomes text nodes and attributes, never HTML. */

export const h = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
};

/* Replace the content of an element only if it has changed, so that focus and selection stay. */
export const fill = (element, key, build) => {
  const text = JSON.stringify(key);
  if (element.dataset.shown === text) return;
  element.dataset.shown = text;
  element.replaceChildren(...[build()].flat().filter(Boolean));
};

const answered = async (response) => {
  const content = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) throw new Error(content.error);
  return content;
};
export const get = async (path, values = {}) => answered(await fetch(`${path}?${new URLSearchParams(values)}`));
export const post = async (path, body) => answered(await fetch(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: body instanceof File ? body : JSON.stringify(body),
}));
export const fileAddress = (path, save = false) => `/file?${new URLSearchParams(save ? { path, save: 1 } : { path })}`;

/* The state of the server: the same in all tabs. */
export const server = { state: null };
export const connect = (onConnection, onState) => {
  const source = new EventSource("/api/events");
  source.addEventListener("open", () => onConnection(true));
  source.addEventListener("error", () => onConnection(false));
  source.addEventListener("message", (event) => {
    server.state = JSON.parse(event.data);
    onState(server.state);
  });
};

export const duration = (seconds) => {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
};
export const number = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "–");
export const name = (path) => path.split("/").filter(Boolean).pop() || "/";

/* One job: its state, progress, command, log and error. `update` gets its summary from the state. */
const jobCard = () => {
  const title = h("strong");
  const bar = h("progress", { max: 1, "aria-label": "Progress" });
  const note = h("span", { class: "soft", role: "status" });
  const error = h("p", { class: "error", role: "alert" });
  const log = h("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
  const line = h("code", { class: "line" });
  const more = h("details", {}, h("summary", {}, "Command and log"), line, log);
  const stop = h("button", { type: "button", onclick: () => { stop.disabled = true; post("/api/stop", { id: shown.id }).catch(() => null); } }, "Stop");
  const box = h("div", { class: "job", hidden: true }, h("div", { class: "row" }, title, note, stop), bar, error, more);
  let shown = null;
  const readLog = async () => {
    if (!shown || !more.open) return;
    const job = await get("/api/job", { id: shown.id }).catch(() => null);
    if (job) log.textContent = job.log.join("\n") || "Nothing yet.";
  };
  more.addEventListener("toggle", readLog);
  const update = (job) => {
    box.hidden = !job;
    if (!job) return;
    const changed = !shown || shown.id !== job.id || shown.state !== job.state;
    shown = job;
    box.dataset.state = job.state;
    const progress = job.progress || {};
    title.textContent = `${job.command}: ${job.state === "lost" ? "ended without a result" : job.state}`;
    const left = progress.left_s ? `about ${duration(progress.left_s)} left` : "";
    const share = progress.stage ? `${progress.number} ${progress.stage} ${Math.round(100 * progress.share)} %`.trim() : "";
    note.textContent = job.state === "running" ? [share, left, progress.note].filter(Boolean).join(", ") : (job.ended ? new Date(1000 * job.ended).toLocaleString() : "");
    bar.hidden = job.state !== "running";
    if (progress.stage) bar.value = progress.share; else bar.removeAttribute("value");
    stop.hidden = job.state !== "running";
    if (changed) stop.disabled = false;
    error.textContent = job.error || (job.state === "lost" ? "The process was killed, or the machine was stopped. Start it again: finished work is kept." : "");
    line.textContent = job.line;
    readLog();
  };
  return { box, update };
};

/* A button that starts a command, the command as typed into a terminal, and the newest job of it.
   `ask` returns { command, values }, or a text that says what is missing. `mine` picks the jobs to show.
   `agreed` resolves to whether to start it, such as after a question. */
export const commandBox = (label, ask, { mine, onDone, agreed }) => {
  const start = h("button", { type: "button", class: "primary" }, label);
  const line = h("code", { class: "line" });
  const copy = h("button", { type: "button", class: "quiet" }, "Copy");
  const problem = h("p", { class: "error", role: "alert" });
  const card = jobCard();
  const box = h("div", { class: "command" }, h("div", { class: "row" }, start, line, copy), problem, card.box);
  const say = (text) => { problem.textContent = text; };
  let known = "";
  let busy = false;
  const refresh = async () => {
    const asked = ask();
    const missing = typeof asked === "string";
    start.disabled = missing || busy;
    copy.hidden = missing;
    if (missing) { line.textContent = asked; known = ""; return; }
    const key = JSON.stringify(asked);
    if (key === known) return;
    known = key;
    try { const answer = await post("/api/command", asked); if (key === known) { line.textContent = answer.line; say(""); } }
    catch (error) { if (key === known) { line.textContent = ""; start.disabled = true; say(error.message); } }
  };
  start.addEventListener("click", async () => {
    start.disabled = true;
    if (agreed && !(await agreed())) { start.disabled = false; return; }
    try { card.update(await post("/api/jobs", ask())); say(""); }
    catch (error) { say(error.message); start.disabled = false; }
  });
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(line.textContent);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  let last = null;
  const update = (state) => {
    const job = state.jobs.find(mine);
    card.update(job);
    busy = Boolean(job && job.state === "running");
    if (job && last === "running" && job.state !== "running" && onDone) onDone(job);
    last = job ? job.state : null;
    refresh();
  };
  return { box, update, refresh };
};

/* Choose a folder, or a file with one of `endings`, below the roots; resolves to a path or null. */
export const choosePath = (title, { endings = null, start = null } = {}) => new Promise((resolve) => {
  const where = h("p", { class: "path" });
  const list = h("ul", { class: "entries" });
  const problem = h("p", { class: "error", role: "alert" });
  const roots = h("div", { class: "row roots" }, server.state.roots.map((root) => h("button", { type: "button", class: "quiet", onclick: () => open(root) }, root)));
  const dialog = h("dialog", { class: "chooser", "aria-label": title, onclose: () => { dialog.remove(); resolve(dialog.returnValue || null); } },
    h("h2", {}, title), roots, where, problem, list,
    h("div", { class: "row" }, endings ? null : h("button", { type: "button", class: "primary", onclick: () => dialog.close(path) }, "Choose this folder"), h("button", { type: "button", onclick: () => dialog.close() }, "Cancel")));
  let path = "";
  const entry = (text, kind, act) => h("li", {}, h("button", { type: "button", class: kind, onclick: act }, text));
  async function open(folder) {
    try {
      const found = await get("/api/folder", { path: folder });
      path = found.path;
      where.textContent = path;
      const inside = (each) => `${path === "/" ? "" : path}/${each}`;
      const files = endings ? found.files.filter((file) => endings.some((ending) => file.toLowerCase().endsWith(ending))) : [];
      list.replaceChildren(
        ...(found.parent ? [entry("..", "folder up", () => open(found.parent))] : []),
        ...found.folders.map((each) => entry(each, "folder", () => open(inside(each)))),
        ...files.map((each) => entry(each, "file", () => dialog.close(inside(each)))),
      );
      if (!list.children.length) list.append(h("li", { class: "soft" }, "No folders."));
      problem.textContent = "";
    } catch (error) { problem.textContent = error.message; }
  }
  document.body.append(dialog);
  dialog.showModal();
  open(start || server.state.roots[0]);
});

/* A labelled field of a form. */
export const field = (label, control, hint = "") => h("label", { class: "field" }, h("span", {}, label), control, hint ? h("small", {}, hint) : null);
export const select = (options, value, onchange) => h("select", { onchange: (event) => onchange(event.target.value) },
  options.map((option) => { const [word, text] = Array.isArray(option) ? option : [option, option]; return h("option", { value: word, selected: word === value }, text); }));

/* Which rows of many are shown, and the way to the others; nothing where all are shown. */
export const pageRow = (start, shown, total, go, size = 50) => (total <= size ? "" : h("div", { class: "row" },
  h("span", { class: "soft" }, `${start + 1}–${start + shown} of ${total}`),
  h("button", { type: "button", disabled: !start, onclick: () => go(Math.max(0, start - size)) }, "Previous"),
  h("button", { type: "button", disabled: start + shown >= total, onclick: () => go(start + size) }, "Next")));
