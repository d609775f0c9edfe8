/* The picture of a case, larger when asked. `values` has study, recipe and case. */
import { address, get, modal } from "/assets/kit.js";
import { h } from "/assets/shared.js";

/* A picture, or the sentence that says why there is none. */
const drawn = (values, alt, onload) => h("img", {
  loading: "lazy", alt, src: address("/api/thumbnail", values), onload, onerror: async ({ target }) => {
    const { reason } = await get("/api/thumbnail", values).catch((error) => ({ reason: error.message }));
    target.replaceWith(h("span.soft", { title: reason }, alt ? reason : "No picture"));
  },
});

const enlarge = (values) => modal(`Case ${values.case}`, ".picture", (dialog) => {
  const note = h("span", "Drawing three planes …");
  const alt = `Case ${values.case}: axial, coronal and sagittal slice with its masks`;
  return [h("p", { role: "status" }, note, drawn({ ...values, size: "large" }, alt, () => note.remove())),
    h("button", { onclick: () => dialog.close() }, "Close")];
});

/* A small picture, drawn when it comes near the view; a click enlarges it. */
export const picture = (values) => h("button.zoom.thumbnail",
  { "aria-label": `Enlarge the picture of case ${values.case}`, onclick: () => enlarge(values) }, drawn(values, ""));
