/* Surfaces of the structures, drawn by WebGL. Positions are millimetres of the patient: x to the left, y to the back,
   z to the head. A frame is drawn when something has changed, never in a loop. */
import { choice, chooseOne, h, sideLetters, swatches, titleOf } from "./shared.js";

const CHOICES = [["Case", "case"], ["Surfaces of", "source"], ["Structures", "structure"], ["Colour", "colour"], ["Seen from", "camera"]];

/* Show the surfaces of cases in an element, whose `data-scale` are the millimetres at the ends of the colours. `onCase`
   and `showCase` tell the slices of the same page which case is shown. Returns a function that ends it. */
export const showSurfaces = (surfaces, cases, models, { onCase, showCase }) => {
  surfaces.hidden = false;
  const { scale: scaleMm } = surfaces.dataset;
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": "Surfaces of the structures. Arrow keys rotate, Shift and arrow keys pan, plus and minus zoom, 0 shows everything." });
  const scene = h("div.scene", canvas, sideLetters());
  const structures = new Map(cases.flatMap(({ meshes }) => meshes.flatMap((found) => found.meshes.map((mesh) => [mesh.name, mesh.colour]))));
  const legend = h("p.legend.by-structure", swatches(structures));
  surfaces.append(
    h("div.tools", CHOICES.map(([label, choices]) => h("div.choice", { role: "group", "aria-label": label, "data-choice": choices }))),
    scene, h("p.legend.about"),
    h("p.scale", h("span", `−${scaleMm} mm, too small`), h("i"), h("span", `+${scaleMm} mm, too large`)), legend,
    h("p.hint", "Drag to rotate. Shift and drag, or drag with two fingers, to pan. Pinch, press + and −, or click and scroll to zoom. Double-click to see everything. The surfaces are simplified for display; do not measure them."));
  const part = (name) => surfaces.querySelector(`[data-choice=${name}]`);
  /* A printer copies the canvas between two frames, so the picture has to be kept. */
  const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) {
    scene.replaceWith(h("p.lead", "This browser does not support WebGL 2. Open this page in another browser, or load the meshes that predict and mesh write into 3D Slicer."));
    surfaces.querySelectorAll(".tools, .hint, .legend").forEach((element) => element.remove());
    return () => {};
  }

  const VERTEX = `#version 300 es
    uniform mat4 camera, projection;
    in vec3 position, normal;
    in float error;
    out vec3 seen, turned;
    out float off;
    void main() {
      vec4 place = camera * vec4(position, 1.0);
      seen = place.xyz;
      turned = mat3(camera) * normal;
      off = error;
      gl_Position = projection * place;
    }`;
  /* A key light from above left and a weaker one at the eye, fixed to the viewer; a soft highlight. Where a surface is
     open, its inside is shaded like its outside. */
  const FRAGMENT = `#version 300 es
    precision highp float;
    uniform vec3 colour;
    uniform bool painted;
    in vec3 seen, turned;
    in float off;
    out vec4 shown;
    void main() {
      vec3 eye = normalize(-seen), key = normalize(vec3(-0.5, 0.7, 0.9)), n = normalize(turned);
      if (dot(n, eye) < 0.0) n = -n;
      float diffuse = 0.6 * max(dot(n, key), 0.0) + 0.3 * max(dot(n, eye), 0.0);
      float gloss = 0.16 * pow(max(dot(n, normalize(key + eye)), 0.0), 28.0);
      vec3 end = off < 0.0 ? vec3(0.08, 0.36, 0.85) : vec3(0.85, 0.16, 0.10);
      vec3 paint = painted ? mix(vec3(0.93, 0.91, 0.87), end, pow(min(abs(off), 1.0), 0.7)) : colour;
      shown = vec4(paint * (0.22 + diffuse) + gloss, 1.0);
    }`;
  const HALF_ANGLE = Math.tan(Math.PI / 12); // of a field of view of 30 degrees
  const NAMES = [["R", "L"], ["A", "P"], ["F", "H"]];
  const TURN = Math.PI / 2;
  const VIEWS = {
    front: [0, 0], back: [2 * TURN, 0], "left side": [TURN, 0], "right side": [-TURN, 0],
    above: [2 * TURN, TURN], below: [0, -TURN],
  };

  const withMeshes = cases.filter((found) => found.meshes.length);
  const caseNames = withMeshes.map(titleOf);
  const hidden = new Set();
  let chosen = withMeshes[0];
  const paintable = withMeshes.some((found) => found.meshes.some(({ meshes }) => meshes.some((mesh) => mesh.distances)));
  let byDistance = paintable;
  const predicted = chosen.meshes.map((found) => found.name).filter((name) => models.includes(name));
  let sources = new Set(predicted.length ? predicted : [chosen.meshes[0].name]);
  /* Yaw turns the eye about the patient's long axis (0 in front), pitch raises it; it looks at `target`. */
  let yaw = 0, pitch = 0, distance = 1, target = [0, 0, 0], radius = 1;
  let program, places, buffers, waiting = 0;

  const setUp = () => {
    program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    places = Object.fromEntries(["camera", "projection", "colour", "painted"].map((name) => [name, gl.getUniformLocation(program, name)]));
    buffers = new Map();
  };

  /* --- Meshes --- */
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
  const unpacked = (mesh) => {
    if (!mesh.positions) {
      const steps = new Int16Array(bytes(mesh.vertices));
      mesh.positions = Float32Array.from(steps, (step, n) => mesh.centre_mm[n % 3] + mesh.step_mm * step);
      mesh.corners = Uint32Array.from(mesh.wide ? new Uint32Array(bytes(mesh.faces)) : new Uint16Array(bytes(mesh.faces)));
    }
    return mesh;
  };
  /* Every vertex gets the sum of the normals of its faces, large faces counting more. */
  const normals = ({ positions: p, corners }) => {
    const sums = new Float32Array(p.length);
    for (let f = 0; f < corners.length; f += 3) {
      const [a, b, c] = [3 * corners[f], 3 * corners[f + 1], 3 * corners[f + 2]];
      const u = [p[b] - p[a], p[b + 1] - p[a + 1], p[b + 2] - p[a + 2]];
      const v = [p[c] - p[a], p[c + 1] - p[a + 1], p[c + 2] - p[a + 2]];
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (const corner of [a, b, c]) for (let axis = 0; axis < 3; axis++) sums[corner + axis] += n[axis];
    }
    return sums;
  };
  const loaded = (mesh) => {
    if (!buffers.has(mesh)) {
      const array = gl.createVertexArray();
      gl.bindVertexArray(array);
      for (const [name, values] of [["position", unpacked(mesh).positions], ["normal", normals(mesh)]]) {
        const place = gl.getAttribLocation(program, name);
        gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
        gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
        gl.enableVertexAttribArray(place);
        gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
      }
      const off = gl.getAttribLocation(program, "error");
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, mesh.distances ? new Int8Array(bytes(mesh.distances)) : new Int8Array(mesh.positions.length / 3), gl.STATIC_DRAW);
      gl.enableVertexAttribArray(off);
      gl.vertexAttribPointer(off, 1, gl.BYTE, true, 0, 0);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.corners, gl.STATIC_DRAW);
      buffers.set(mesh, array);
    }
    return buffers.get(mesh);
  };
  /* The sets of surfaces to show, side by side or, on a narrow screen, one above the other. */
  const shownSets = () => chosen.meshes.filter((found) => sources.has(found.name));
  const panes = () => {
    const count = Math.max(1, shownSets().length);
    return canvas.clientWidth >= 520 ? [count, 1] : [1, count];
  };

  /* --- Camera --- */
  /* Unit vectors to the right and the top of the picture and towards the eye. */
  const axes = () => {
    const [sy, cy, sp, cp] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
    return [[cy, sy, 0], [-sp * sy, sp * cy, cp], [cp * sy, -cp * cy, sp]];
  };
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const shape = () => Math.max(canvas.clientWidth / panes()[0], 1) / Math.max(canvas.clientHeight / panes()[1], 1);
  /* Look at the middle of all structures from as far as shows them whole. */
  const fit = () => {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    for (const { meshes } of chosen.meshes) for (const { positions } of meshes.map(unpacked)) {
      positions.forEach((value, n) => { low[n % 3] = Math.min(low[n % 3], value); high[n % 3] = Math.max(high[n % 3], value); });
    }
    target = low.map((value, n) => (value + high[n]) / 2);
    const half = low.map((value, n) => (high[n] - value) / 2);
    radius = Math.hypot(...half);
    const [across, up, deep] = axes().map((axis) => dot(axis.map(Math.abs), half));
    distance = 1.08 * Math.max(up, across / shape()) / HALF_ANGLE + deep;
  };
  const paint = () => {
    waiting = 0;
    const scale = window.devicePixelRatio || 1;
    const size = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * scale)));
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    gl.viewport(0, 0, ...size);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const [right, up, toward] = axes();
    const eye = target.map((value, n) => value + distance * toward[n]);
    const [near, far] = [Math.max(0.02 * distance, distance - 3 * radius), distance + 3 * radius];
    gl.uniformMatrix4fv(places.camera, false, [
      ...[0, 1, 2].flatMap((n) => [right[n], up[n], toward[n], 0]), -dot(right, eye), -dot(up, eye), -dot(toward, eye), 1,
    ]);
    gl.uniformMatrix4fv(places.projection, false, [
      1 / (HALF_ANGLE * shape()), 0, 0, 0, 0, 1 / HALF_ANGLE, 0, 0,
      0, 0, (near + far) / (near - far), -1, 0, 0, 2 * near * far / (near - far), 0,
    ]);
    const [columns, rows] = panes();
    shownSets().forEach(({ name, meshes }, place) => {
      const [column, row] = columns > 1 ? [place, 0] : [0, place];
      const [wide, high] = [Math.floor(size[0] / columns), Math.floor(size[1] / rows)];
      gl.viewport(column * wide, (rows - 1 - row) * high, wide, high);
      for (const mesh of meshes) {
        if (hidden.has(mesh.name)) continue;
        gl.bindVertexArray(loaded(mesh));
        gl.uniform1i(places.painted, byDistance && mesh.distances ? 1 : 0);
        gl.uniform3fv(places.colour, [1, 3, 5].map((n) => parseInt(mesh.colour.slice(n, n + 2), 16) / 255));
        gl.drawElements(gl.TRIANGLES, mesh.corners.length, gl.UNSIGNED_INT, 0);
      }
      const label = labelOf(place, name);
      label.style.left = `calc(${100 * column / columns}% + 12px)`;
      label.style.top = `calc(${100 * row / rows}% + 8px)`;
    });
    scene.querySelectorAll(".pane").forEach((label, place) => { label.hidden = place >= shownSets().length; });
    surfaces.querySelector(".scale").hidden = !(byDistance && paintable);
    legend.hidden = byDistance && shownSets().every((found) => found.name !== "reference");
    /* The side of the patient that lies nearest to each edge of the picture. */
    const side = (axis, ahead) => {
      const n = [0, 1, 2].reduce((best, next) => (Math.abs(axis[next]) > Math.abs(axis[best]) ? next : best));
      return NAMES[n][Number(axis[n] * ahead > 0)];
    };
    [[".l", right, -1], [".r", right, 1], [".t", up, 1], [".bo", up, -1]].forEach(([edge, axis, ahead]) => {
      scene.querySelector(edge).textContent = side(axis, ahead);
    });
    surfaces.querySelector(".about").textContent = `${[...shownSets()].map((found) => found.name).join(" and ")}, ${titleOf(chosen)}`;
  };
  const labelOf = (place, name) => {
    while (scene.querySelectorAll(".pane").length <= place) scene.append(h("span.pane"));
    const label = scene.querySelectorAll(".pane")[place];
    label.textContent = name;
    return label;
  };
  const draw = () => { waiting = waiting || requestAnimationFrame(paint); };
  const turn = (across, upwards) => {
    yaw -= across;
    pitch = Math.min(TURN, Math.max(-TURN, pitch + upwards));
    draw();
  };
  const zoom = (share) => {
    distance = Math.min(20 * radius, Math.max(0.1 * radius, distance * share));
    draw();
  };
  /* Move the patient by pixels of the screen. */
  const pan = (across, down) => {
    const [right, up] = axes();
    const mm = 2 * distance * HALF_ANGLE * panes()[1] / Math.max(canvas.clientHeight, 1);
    target = target.map((value, n) => value + mm * (down * up[n] - across * right[n]));
    draw();
  };

  /* --- Mouse, fingers, keys --- */
  const pointers = new Map();
  const middle = () => {
    const [a, b] = [...pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const before = pointers.size === 2 ? middle() : last;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const now = pointers.size === 2 ? middle() : pointers.get(event.pointerId);
    const [across, down] = [now.x - before.x, now.y - before.y];
    if (pointers.size === 2) { pan(across, down); zoom(before.apart / now.apart); }
    else if (event.shiftKey || event.buttons & 6) pan(across, down);
    else turn(0.01 * across, 0.01 * down);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => { fit(); draw(); });
  /* The wheel scrolls the page until the view has been clicked. */
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    zoom(Math.exp(Math.sign(event.deltaY) * 0.12));
    event.preventDefault();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step && event.shiftKey) pan(20 * step[0], 20 * step[1]);
    else if (step) turn(0.2 * step[0], 0.2 * step[1]);
    else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.9 : 1 / 0.9);
    else if (event.key === "0") { fit(); draw(); }
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { setUp(); draw(); });
  new ResizeObserver(draw).observe(canvas);
  window.addEventListener("beforeprint", paint);

  /* --- Choices --- */
  const offer = () => {
    choice(part("source"), chosen.meshes.map((found) => found.name), { many: true, pressed: [...sources] }, (state) => { sources = state; fit(); draw(); });
    const colours = new Map(chosen.meshes.flatMap(({ meshes }) => meshes.map((mesh) => [mesh.name, mesh.colour])));
    const names = [...colours.keys()];
    choice(part("structure"), names, { many: true, pressed: names.filter((name) => !hidden.has(name)), colours }, (state) => {
      for (const name of names) { if (state.has(name)) hidden.delete(name); else hidden.add(name); }
      draw();
    });
  };
  part("case").hidden = withMeshes.length < 2;
  const offerCases = () => chooseOne(part("case"), caseNames, titleOf(chosen), (name) => showCase(withMeshes[caseNames.indexOf(name)]));
  onCase((found) => {
    if (!withMeshes.includes(found)) return;
    chosen = found;
    offerCases();
    offer();
    fit();
    draw();
  });
  offerCases();
  part("colour").hidden = !paintable;
  choice(part("colour"), ["distance", "structure"], { pressed: ["distance"] }, (state) => { byDistance = state.has("distance"); draw(); });
  choice(part("camera"), Object.keys(VIEWS), { pressed: ["front"] }, (state) => {
    [yaw, pitch] = VIEWS[[...state][0]];
    fit();
    draw();
  });
  setUp();
  offer();
  fit();
  paint();
  return () => {
    window.removeEventListener("beforeprint", paint);
    gl.getExtension("WEBGL_lose_context")?.loseContext();
  };
};
