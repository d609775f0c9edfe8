"use strict";
(() => {
  const read = (id) => {
    const element = document.getElementById(id);
    return element ? JSON.parse(element.textContent) : [];
  };
  const cases = read("cases");
  const models = read("models");
  const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

  /* Tabs: without this script every panel is shown. */
  for (const section of document.querySelectorAll("[data-tabs]")) {
    const panels = [...section.querySelectorAll(".panel")];
    const names = [...new Set(panels.map((panel) => panel.dataset.tab))];
    if (names.length < 2) continue;
    const list = make("div", { className: "tabs" });
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", section.dataset.tabs);
    const buttons = names.map((name) => {
      const button = make("button", { type: "button", textContent: name });
      button.setAttribute("role", "tab");
      button.addEventListener("click", () => choose(name));
      list.append(button);
      return button;
    });
    const choose = (name) => {
      panels.forEach((panel) => { panel.hidden = panel.dataset.tab !== name; });
      buttons.forEach((button) => {
        const chosen = button.textContent === name;
        button.setAttribute("aria-selected", String(chosen));
        button.tabIndex = chosen ? 0 : -1;
      });
    };
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const now = buttons.indexOf(document.activeElement);
      const next = buttons[(now + step + buttons.length) % buttons.length];
      next.focus();
      next.click();
      event.preventDefault();
    });
    panels[0].before(list);
    choose(names[0]);
  }

  /* A row of buttons of which one, or any number, is pressed. */
  const choice = (box, words, { many = false, pressed = [] } = {}, changed) => {
    box.replaceChildren(make("span", { textContent: box.getAttribute("aria-label").toLowerCase() }));
    const state = new Set(pressed);
    const buttons = words.map((word) => {
      const button = make("button", { type: "button", textContent: word });
      button.addEventListener("click", () => {
        if (many) { if (!state.delete(word)) state.add(word); }
        else { state.clear(); state.add(word); }
        show();
        changed(state);
      });
      box.append(button);
      return button;
    });
    const show = () => buttons.forEach((button) => {
      button.setAttribute("aria-pressed", String(state.has(button.textContent)));
    });
    show();
    return state;
  };
  /* Predicted cases with their lights: without this script all are there, the worst first. */
  const list = document.querySelector(".lit-list");
  const sorting = document.querySelector("[data-sort]");
  if (list && sorting) {
    const lit = [...list.children];
    const lights = [...new Set(lit.map((item) => item.dataset.light))];
    const orders = {
      "worst first": (a, b) => a.dataset.worst - b.dataset.worst,
      "lowest agreement": (a, b) => a.dataset.agreement - b.dataset.agreement || a.dataset.worst - b.dataset.worst,
      name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
    };
    choice(sorting, Object.keys(orders), { pressed: ["worst first"] }, (state) => {
      list.append(...lit.sort(orders[[...state][0]]));
    });
    choice(document.querySelector("[data-lights]"), lights, { many: true, pressed: lights }, (state) => {
      for (const item of lit) item.hidden = !state.has(item.dataset.light);
    });
  }

  const caseNames = cases.map((found) => `${found.reason}: ${found.id}`);

  /* Slices */
  const viewer = document.getElementById("viewer");
  if (viewer && cases.length) startViewer();

  function startViewer() {
    viewer.hidden = false;
    const part = (selector) => viewer.querySelector(selector);
    const boxes = (name) => part(`[data-choice=${name}]`);
    const canvas = part("canvas");
    const context = canvas.getContext("2d");
    const slider = part("input");
    const tint = make("canvas");
    const pictures = new Map();
    let shownCase = cases[0];
    let plane = shownCase.planes[0];
    let frame = plane.start;
    const modelColour = (name) => {
      const place = models.indexOf(name);
      return getComputedStyle(part(".stage")).getPropertyValue(`--m${Math.max(place, 0) % 4}`).trim();
    };
    let layers = new Set();

    const picture = (address) => {
      if (!pictures.has(address)) {
        const image = new Image();
        image.addEventListener("load", draw);
        image.src = address;
        pictures.set(address, image);
      }
      const image = pictures.get(address);
      return image.complete && image.naturalWidth ? image : null;
    };
    const cut = (target, image, scale) => {
      const width = plane.width * scale;
      const height = plane.height * scale;
      const column = frame % plane.columns;
      const row = Math.floor(frame / plane.columns);
      target.drawImage(image, column * width, row * height, width, height, 0, 0, canvas.width, canvas.height);
    };
    function draw() {
      const scale = Math.max(2, Math.round(768 / Math.max(plane.width, plane.height)));
      canvas.width = plane.width * scale;
      canvas.height = plane.height * scale;
      const image = layers.has("image") ? picture(plane.image) : null;
      if (image) cut(context, image, 1);
      for (const [name, address, kind] of plane.layers) {
        if (!layers.has(name)) continue;
        const labels = picture(address);
        if (!labels) continue;
        if (kind !== "outline") { cut(context, labels, 2); continue; }
        tint.width = canvas.width;
        tint.height = canvas.height;
        const pen = tint.getContext("2d");
        cut(pen, labels, 2);
        pen.globalCompositeOperation = "source-in";
        pen.fillStyle = modelColour(name);
        pen.fillRect(0, 0, tint.width, tint.height);
        context.drawImage(tint, 0, 0);
      }
      part(".legend").classList.toggle("disagreeing", layers.has("disagreement"));
      part("output").textContent = plane.indices[frame];
      slider.max = plane.indices.length - 1;
      slider.value = frame;
      [".l", ".r", ".t", ".bo"].forEach((side, n) => { part(side).textContent = plane.letters[n]; });
      const scores = shownCase.dice.map(([name, dice]) => `${name} ${dice}`).join(", ");
      part(".about").textContent = scores ? `Mean Dice of this case: ${scores}` : "";
    }
    const turn = (step) => {
      const next = Math.min(plane.indices.length - 1, Math.max(0, frame + step));
      if (next === frame) return false;
      frame = next;
      draw();
      return true;
    };
    const choosePlane = (name) => {
      plane = shownCase.planes.find((found) => found.plane === name) || shownCase.planes[0];
      frame = plane.start;
      draw();
    };
    const offerPlanes = (name) => choice(
      boxes("plane"), shownCase.planes.map((found) => found.plane), { pressed: [name] },
      (state) => choosePlane([...state][0]),
    );
    choice(boxes("case"), caseNames, { pressed: [caseNames[0]] }, (state) => {
      shownCase = cases[caseNames.indexOf([...state][0])];
      choosePlane(plane.plane);
      offerPlanes(plane.plane);
    });
    offerPlanes(plane.plane);
    const names = ["image", ...plane.layers.map(([name]) => name)];
    const atFirst = names.filter((name) => name !== "disagreement");
    layers = choice(boxes("layer"), names, { many: true, pressed: atFirst }, draw);
    boxes("layer").querySelectorAll("button").forEach((button) => {
      if (models.includes(button.textContent)) {
        button.style.borderColor = `var(--m${models.indexOf(button.textContent) % 4})`;
        button.style.borderWidth = "2px";
      }
    });
    slider.addEventListener("input", () => { frame = Number(slider.value); draw(); });
    const stage = part(".stage");
    stage.addEventListener("keydown", (event) => {
      const all = plane.indices.length;
      const step = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -5, PageDown: 5, Home: -all, End: all }[event.key];
      if (!step) return;
      turn(step);
      event.preventDefault();
    });
    stage.addEventListener("wheel", (event) => {
      if (turn(Math.sign(event.deltaY))) event.preventDefault();
    }, { passive: false });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  }

  /* Surfaces: plotly's script runs when they are first opened. */
  const details = document.getElementById("meshes");
  if (details) details.addEventListener("toggle", startSurfaces, { once: true });

  function startSurfaces() {
    document.head.append(make("script", { textContent: document.getElementById("plotly").textContent }));
    const part = (name) => details.querySelector(`[data-choice=${name}]`);
    const plot = details.querySelector(".plot");
    const withMeshes = cases.filter((found) => found.meshes.length);
    const names = withMeshes.map((found) => `${found.reason}: ${found.id}`);
    const cameras = {
      front: { eye: { x: 0, y: -1, z: 0.08 } }, back: { eye: { x: 0, y: 1, z: 0.08 } },
      "left side": { eye: { x: 1, y: 0, z: 0.08 } }, "right side": { eye: { x: -1, y: 0, z: 0.08 } },
      above: { eye: { x: 0, y: 0, z: 1 }, up: { x: 0, y: -1, z: 0 } },
    };
    let chosen = withMeshes[0];
    let source = chosen.meshes[0].name;
    let camera = cameras.front;

    const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
    const trace = (mesh) => {
      const steps = new Int16Array(bytes(mesh.vertices));
      const faces = mesh.wide ? new Uint32Array(bytes(mesh.faces)) : new Uint16Array(bytes(mesh.faces));
      const axis = (n) => Array.from({ length: steps.length / 3 }, (_, v) => mesh.centre_mm[n] + mesh.step_mm * steps[3 * v + n]);
      const corner = (n) => Array.from({ length: faces.length / 3 }, (_, f) => faces[3 * f + n]);
      return {
        type: "mesh3d", name: mesh.name, showlegend: true, color: mesh.colour, hoverinfo: "name",
        x: axis(0), y: axis(1), z: axis(2), i: corner(0), j: corner(1), k: corner(2),
        flatshading: false, lighting: { ambient: 0.45, diffuse: 0.75, specular: 0.18, roughness: 0.6 },
        lightposition: { x: -2000, y: -6000, z: 4000 },
      };
    };
    const hidden = { visible: false, showspikes: false };
    /* How far the eye must be, in plotly's units, for the whole to be seen. */
    const distance = (traces) => {
      const size = ["x", "y", "z"].map((axis) => {
        let low = Infinity;
        let high = -Infinity;
        for (const found of traces) for (const value of found[axis]) { low = Math.min(low, value); high = Math.max(high, value); }
        return Math.max(high - low, 1);
      });
      const mean = Math.cbrt(size[0] * size[1] * size[2]);
      const shape = plot.clientWidth / plot.clientHeight;
      return 1.25 * Math.max(size[2] / mean, Math.max(size[0], size[1]) / mean / Math.min(shape, 1));
    };
    const draw = () => {
      const style = getComputedStyle(document.documentElement);
      const ink = style.getPropertyValue("--ink").trim();
      const meshes = (chosen.meshes.find((found) => found.name === source) || chosen.meshes[0]).meshes;
      const traces = meshes.map(trace);
      const eye = camera.eye;
      const reach = distance(traces);
      const placed = { up: camera.up || { x: 0, y: 0, z: 1 }, eye: { x: eye.x * reach, y: eye.y * reach, z: eye.z * reach } };
      window.Plotly.react(plot, traces, {
        margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", font: { color: ink },
        legend: { orientation: "h", y: 0 }, uirevision: chosen.id + JSON.stringify(camera),
        scene: { aspectmode: "data", camera: placed, xaxis: hidden, yaxis: hidden, zaxis: hidden },
      }, { responsive: true, displaylogo: false, displayModeBar: false });
    };
    const turn = (azimuth, elevation, nearer) => {
      const now = plot._fullLayout.scene._scene.getCamera().eye; // the layout lags behind the mouse
      const reach = Math.hypot(now.x, now.y, now.z);
      const height = Math.asin(now.z / reach) + elevation;
      const round = Math.atan2(now.y, now.x) + azimuth;
      const h = Math.min(1.5, Math.max(-1.5, height));
      const r = reach * nearer;
      window.Plotly.relayout(plot, { "scene.camera": {
        up: { x: 0, y: 0, z: 1 },
        eye: { x: r * Math.cos(h) * Math.cos(round), y: r * Math.cos(h) * Math.sin(round), z: r * Math.sin(h) },
      } });
    };
    plot.addEventListener("keydown", (event) => {
      const step = {
        ArrowLeft: [-0.2, 0, 1], ArrowRight: [0.2, 0, 1], ArrowUp: [0, 0.2, 1], ArrowDown: [0, -0.2, 1],
        "+": [0, 0, 0.9], "-": [0, 0, 1 / 0.9],
      }[event.key];
      if (!step) return;
      turn(...step);
      event.preventDefault();
    });
    const offerSources = () => choice(part("source"), chosen.meshes.map((found) => found.name), { pressed: [source] }, (state) => { source = [...state][0]; draw(); });
    choice(part("case"), names, { pressed: [names[0]] }, (state) => {
      chosen = withMeshes[names.indexOf([...state][0])];
      if (!chosen.meshes.some((found) => found.name === source)) source = chosen.meshes[0].name;
      offerSources();
      draw();
    });
    offerSources();
    choice(part("camera"), Object.keys(cameras), { pressed: ["front"] }, (state) => { camera = cameras[[...state][0]]; draw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    draw();
  }
})();
