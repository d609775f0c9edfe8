/* What the views of cases share: the picture of a case, larger when asked, and the pages of a list. */
import { get, h } from "/assets/kit.js";

/* A picture of a case, or the sentence that says why there is none; the time keeps a browser from showing an older one. */
const drawn = (values, alt) => h("img", { loading: "lazy", src: `/api/thumbnail?${new URLSearchParams({ ...values, time: Date.now() })}`, alt, onerror: async ({ target }) => {
  const { reason } = await get("/api/thumbnail", values).catch((error) => ({ reason: error.message }));
  target.replaceWith(h("span", { class: "soft", title: reason }, alt ? reason : "No picture"));
} });

const enlarge = (values) => {
  const note = h("span", {}, "Drawing three planes …");
  const image = drawn({ ...values, size: "large" }, `Case ${values.case}: axial, coronal and sagittal slice with its masks`);
  for (const end of ["load", "error"]) image.addEventListener(end, () => note.remove());
  const dialog = h("dialog", { class: "chooser picture", "aria-label": `Case ${values.case}`, onclose: () => dialog.remove() },
    h("p", { role: "status" }, note, image),
    h("button", { type: "button", onclick: () => dialog.close() }, "Close"));
  document.body.append(dialog);
  dialog.showModal();
};

/* A case as a small picture that is drawn when it comes near the view; `values` has study, recipe and case. */
export const picture = (values) => h("button", { type: "button", class: "zoom thumbnail", "aria-label": `Enlarge the picture of case ${values.case}`, onclick: () => enlarge(values) }, drawn(values, ""));

/* Pages and a search. `go` gets { page, query } and returns { page, pages, found }, or null. */
export const pager = (go) => {
  const note = h("span", { class: "soft", role: "status" });
  const step = (by, text) => h("button", { type: "button", onclick: () => open(page + by) }, text);
  const back = step(-1, "Previous");
  const on = step(1, "Next");
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the cases" });
  const box = h("div", { class: "row pager" }, search, back, on, note);
  let page = 1;
  let waiting = 0;
  async function open(wanted = page) {
    const found = await go({ page: wanted, query: search.value });
    if (!found) return;
    page = found.page;
    note.textContent = `${found.found} ${found.found === 1 ? "case" : "cases"}${found.pages > 1 ? `, page ${page} of ${found.pages}` : ""}`;
    back.hidden = on.hidden = found.pages < 2;
    back.disabled = page < 2;
    on.disabled = page >= found.pages;
  }
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => open(1), 250); });
  return { box, open };
};
