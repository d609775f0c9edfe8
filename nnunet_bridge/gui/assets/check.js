import { h } from "/assets/kit.js";

export default {
  title: "Check and convert",
  mount(root) {
    root.append(h("section", {}, h("h2", {}, "Check and convert")));
    return {};
  },
};
