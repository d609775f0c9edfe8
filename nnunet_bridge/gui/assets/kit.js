/* What all steps share: rendering, requests, the state of the server, commands, forms and the browser of folders. */
import { h, put } from "/assets/shared.js";

const EVENTS = ["onclick", "onchange", "oninput", "ontoggle", "onerror"];

/* Make the children of an element like these, which are built anew each time. A node of the same kind at the same place
   stays, with its focus and what was typed, opened or loaded there. */
export const render = (element, ...children) => {
  const fresh = document.createDocumentFragment();
  put(fresh, children);
  merge(element, [...fresh.childNodes]);
};
const merge = (element, fresh) => {
  fresh.forEach((child, place) => {
    const old = element.childNodes[place];
    if (!old) element.append(child);
    else if (old.nodeName === child.nodeName) adopt(old, child);
    else old.replaceWith(child);
  });
  while (element.childNodes.length > fresh.length) element.lastChild.remove();
};
const adopt = (old, fresh) => {
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== fresh.data) old.data = fresh.data; return; }
  const names = new Set([...old.getAttributeNames(), ...fresh.getAttributeNames()]);
  names.delete("open"); // of details: the user's
  for (const each of names) {
    const value = fresh.getAttribute(each);
    if (value === null) old.removeAttribute(each);
    else if (value !== old.getAttribute(each)) old.setAttribute(each, value);
  }
  for (const event of EVENTS) old[event] = fresh[event];
  merge(old, [...fresh.childNodes]);
  if (!old.matches("input, select") || old === document.activeElement) return;
  Object.assign(old, { value: fresh.value, checked: fresh.checked });
};

export const address = (path, values) => `${path}?${new URLSearchParams(values)}`;
export const fileAddress = (path, more) => address("/file", { path, ...more });
/* The answer to a request; one that is refused becomes an error with the server's sentence. */
export const fetched = async (path, options) => {
  const response = await fetch(path, options);
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error || `The server answered ${response.status}.`);
};
export const get = async (path, values = {}) => (await fetched(address(path, values))).json();
export const post = async (path, content) => {
  const body = content instanceof File ? content : JSON.stringify(content);
  return (await fetched(path, { method: "POST", body })).json();
};

/* The state of the server: the same in all tabs. One that cannot be read has only an error. */
export const server = { state: null };
export const connect = (onConnection, onState) => {
  const source = new EventSource("/api/events");
  source.addEventListener("open", () => onConnection(true));
  source.addEventListener("error", () => onConnection(false));
  source.addEventListener("message", (event) => {
    const state = JSON.parse(event.data);
    if (!state.error) server.state = state;
    onState(state);
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
export const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
export const name = (path) => path.split("/").filter(Boolean).pop() || "/";
export const soft = (...children) => h("p.soft", ...children);

/* Numbers the requests for one thing; each call returns whether its request is still the newest. */
export const turns = () => {
  let newest = 0;
  return () => { const mine = (newest += 1); return () => mine === newest; };
};

/* A line for what went wrong. `attempt` runs an action and shows its error there. */
export const trouble = () => {
  const box = h("p.error", { role: "alert" });
  const say = (text) => { box.textContent = text || ""; };
  const attempt = async (act) => {
    try { say(); return await act(); } catch (error) { say(error.message); return null; }
  };
  return { box, say, attempt };
};

/* One job: its state, progress, command, log and error. */
const jobCard = (job, log, { onStop, onToggle }) => {
  const { stage, number: count, share, left_s: left, note } = job.progress || {};
  const running = job.state === "running", lost = job.state === "lost";
  const percent = stage && `${count} ${stage} ${Math.round(100 * share)} %`.trim();
  const now = [percent, left && `about ${duration(left)} left`, note];
  const ended = job.ended ? new Date(1000 * job.ended).toLocaleString() : "";
  return h("div.job", { "data-state": job.state },
    h("div.row", h("strong", `${job.command}: ${lost ? "ended without a result" : job.state}`),
      h("span.soft", { role: "status" }, running ? now.filter(Boolean).join(", ") : ended),
      h("button", { hidden: !running, onclick: onStop }, "Stop")),
    h("progress", { max: 1, "aria-label": "Progress", hidden: !running, ...(stage ? { value: share } : {}) }),
    h("p.error", { role: "alert" },
      lost ? "The process was killed, or the machine was stopped. Start it again: finished work is kept." : job.error),
    h("details", { ontoggle: onToggle }, h("summary", "Command and log"), h("code.line", job.line),
      h("pre.log", { tabindex: "0", "aria-label": "Log" }, log)));
};

/* A button that starts a command, the command as typed into a terminal, and its newest job.
   `ask` returns { command, values }, or a text that says what is missing. `mine` picks its jobs. */
export const commandBox = (label, ask, { mine, onDone }) => {
  const row = h("div.row"), card = h("div"), problem = trouble(), box = h("div.command", row, problem.box, card);
  let job = null, line = "", known = "", log = "", open = false;
  const act = (done) => async () => { await problem.attempt(done); draw(); };
  const start = act(async () => { job = await post("/api/jobs", ask()); });
  const onStop = act(() => post("/api/stop", { id: job.id }));
  const onToggle = ({ target }) => { open = target.open; readLog(); };
  const readLog = async () => {
    const found = open && await get("/api/job", { id: job.id }).catch(() => null);
    if (found) { log = found.log.join("\n") || "Nothing yet."; draw(); }
  };
  const copy = async ({ target }) => {
    await navigator.clipboard.writeText(line);
    target.textContent = "Copied";
    setTimeout(draw, 1500);
  };
  const draw = () => {
    const missing = !known, running = job && job.state === "running";
    render(row, h("button.primary", { disabled: missing || running || !line, onclick: start }, label),
      h("code.line", line), h("button.quiet", { hidden: missing, onclick: copy }, "Copy"));
    render(card, job && jobCard(job, log, { onStop, onToggle }));
  };
  const refresh = async () => {
    const asked = ask();
    const key = typeof asked === "string" ? "" : JSON.stringify(asked);
    if (!key) line = asked;
    const same = key === known;
    known = key;
    draw();
    if (same || !key) return;
    const found = await problem.attempt(() => post("/api/command", asked));
    if (key !== known) return;
    line = found ? found.line : "";
    draw();
  };
  const update = (state) => {
    const was = job;
    job = state.jobs.find(mine);
    if (was && job && was.id === job.id && was.state === "running" && job.state !== "running" && onDone) onDone(job);
    refresh();
    readLog();
  };
  return { box, update, refresh };
};

/* Choose a folder below the roots, beginning at `start`; null if the dialog is left. */
export const chooseFolder = (title, start) => new Promise((resolve) => {
  const dialog = h("dialog.chooser", { "aria-label": title });
  const where = h("p.path"), list = h("ul.entries"), problem = trouble();
  const entry = (kind, text, act) => h("li", h(`button.${kind}`, { onclick: act }, text));
  const open = (folder) => problem.attempt(async () => {
    const { path, parent, folders } = await get("/api/folder", { path: folder });
    const inside = (each) => `${path === "/" ? "" : path}/${each}`;
    where.textContent = path;
    put(list, parent && entry("folder.up", "..", () => open(parent)),
      folders.map((each) => entry("folder", each, () => open(inside(each)))));
    if (!list.children.length) put(list, h("li.soft", "No folders."));
  });
  const take = h("button.primary", { onclick: () => dialog.close(where.textContent) }, "Choose this folder");
  put(dialog, h("h2", title),
    h("div.row.roots", server.state.roots.map((root) => h("button.quiet", { onclick: () => open(root) }, root))),
    where, problem.box, list, h("div.row", take, h("button", { onclick: () => dialog.close() }, "Cancel")));
  dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue || null); });
  open(start || server.state.roots[0]);
  document.body.append(dialog);
  dialog.showModal();
});

/* The parts of a form. An option is a word, or a pair of word and text. */
export const field = (label, control, hint) => h("label.field", h("span", label), control, hint && h("small", hint));
export const select = (options, value, onchange) => h("select", { onchange: ({ target }) => onchange(target.value) },
  options.map((option) => [option].flat()).map(([word, text = word]) => (
    h("option", { value: word, selected: word === value }, text))));
export const tick = (label, onchange, more = {}) => h("label.tick",
  h("input", { type: "checkbox", onchange: ({ target }) => onchange(target.checked), ...more }), label);

/* A list in pages, with a search. `go` gets { page, query }; it shows that page and returns { page, pages, found }. */
export const pager = (go) => {
  let page = 1, waiting = 0;
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the cases", oninput: () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => open(1), 250);
  } });
  const rest = h("div.row"), box = h("div.row.pager", search, rest);
  const open = async (wanted = page) => {
    if (!rest.textContent) put(rest, h("span.soft", "Reading …"));
    const found = await go({ page: wanted, query: search.value });
    if (!found) { put(rest); return; }
    ({ page } = found);
    const step = (to, text) => h("button", { disabled: to < 1 || to > found.pages, onclick: () => open(to) }, text);
    const more = found.pages > 1;
    const place = more && `, page ${page} of ${found.pages}`;
    render(rest, h("span.soft", { role: "status" }, counted(found.found, "case"), place),
      more && [step(page - 1, "Previous"), step(page + 1, "Next")]);
  };
  return { box, open, search };
};
