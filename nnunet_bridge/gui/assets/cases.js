/* The small picture of a case, which links to the large one; `values` has study, recipe and case. */
import { address, get } from "/assets/kit.js";
import { h } from "/assets/shared.js";

const PATH = "/api/thumbnail";

export const picture = (values) => {
  /* The sentence that says why there is no picture. */
  const onerror = async ({ target }) => {
    const { reason } = await get(PATH, values).catch((error) => ({ reason: error.message }));
    target.replaceWith(h("span.soft", { title: reason }, "No picture"));
  };
  const href = address(PATH, { ...values, size: "large" }), label = `Large picture of case ${values.case}`;
  return h("a.zoom.thumbnail", { href, target: "_blank", "aria-label": label },
    h("img", { loading: "lazy", alt: "", src: address(PATH, values), onerror }));
};
