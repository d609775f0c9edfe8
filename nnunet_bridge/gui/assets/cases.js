/* What the views of cases share: the picture of a case, larger when asked, and the pages of a list. */
import { h } from "/assets/kit.js";

const ask = async (values) => {
  const answer = await fetch(`/api/thumbnail?${new URLSearchParams(values)}`);
  if (answer.headers.get("content-type") === "image/png") return { address: URL.createObjectURL(await answer.blob()) };
  const content = await answer.json().catch(() => ({}));
  return { reason: content.reason || content.error || "There is no picture." };
};

const enlarge = async (values) => {
  const place = h("p", { role: "status" }, "Drawing three planes …");
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const dialog = h("dialog", { class: "chooser picture", "aria-label": `Case ${values.case}` }, place, close);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  const { address, reason } = await ask({ ...values, size: "large" });
  place.replaceChildren(reason || h("img", { src: address, alt: `Case ${values.case}: axial, coronal and sagittal slice with its masks` }));
};

const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
  seen.unobserve(target);
  target.draw();
}), { rootMargin: "300px" });

/* A case as a small picture that is drawn when it comes into view; `values` has study, recipe and case. */
export const picture = (values) => {
  const button = h("button", { type: "button", class: "zoom thumbnail", "aria-label": `Enlarge the picture of case ${values.case}`, onclick: () => enlarge(values) }, h("span", { class: "soft" }, "…"));
  button.draw = async () => {
    const { address, reason } = await ask(values);
    button.replaceChildren(address ? h("img", { src: address, alt: "" }) : h("span", { class: "soft", title: reason }, "No picture"));
  };
  seen.observe(button);
  return button;
};

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
