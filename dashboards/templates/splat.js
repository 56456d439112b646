"use strict";
// Gaussians drawn as 3D Gaussian splatting draws them: each is projected to an ellipse, the farthest first, and laid
// over what is there. World: z up. Camera: x right, y down, z forward, as in mouselift's own renderers.
(() => {
  const named = name => document.getElementById(name);
  const facts = JSON.parse(named("facts").textContent);
  const canvas = named("view");
  const PER = 14, STEPS = 65535, WIDTH = 1024, NEAR = 0.2, BUCKETS = 65536;
  const GROUNDS = [["white", 1, "#fff"], ["grey", 0.5, "#808080"], ["black", 0.06, "#0f0f0f"]];
  let ground = window.matchMedia("(prefers-color-scheme: dark)").matches ? 2 : 0;
  let opacity = false, frusta = false;

  function fail(text) {
    const place = named("problem");
    place.textContent = text;
    place.hidden = false;
    document.documentElement.dataset.state = "failed";
  }

  const gl = canvas.getContext("webgl2", {alpha: false, antialias: false, preserveDrawingBuffer: true});
  if (!gl) { fail("This page needs WebGL 2, which this browser does not offer."); return; }

  // ---------------------------------------------------------------- the Gaussians
  let count = 0, means = new Float32Array(0), texels, rows;
  let depths = new Float32Array(0), numbers = new Uint32Array(0);
  const between = ([least, most], share) => least + (most - least) * share;

  function unpack(step) {  // 14 numbers of 16 bits each, as the page's data has them
    const text = atob(named(`data-${step}`).textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const view = new DataView(bytes.buffer), ranges = facts.steps[step];
    count = ranges.count;
    rows = Math.max(1, Math.ceil(count * 4 / WIDTH));
    texels = new Float32Array(rows * WIDTH * 4);  // four texels of four numbers each
    means = new Float32Array(count * 3);
    [depths, numbers] = [new Float32Array(count), new Uint32Array(count)];
    for (let i = 0; i < count; i++) {
      const n = Array.from({length: PER}, (_, k) => view.getUint16((i * PER + k) * 2, true) / STEPS);
      const s = [3, 4, 5].map(k => Math.exp(between(ranges.scales, n[k])) ** 2);
      const q = [6, 7, 8, 9].map(k => 2 * n[k] - 1);
      const length = Math.hypot(...q) || 1;
      const [w, x, y, z] = q.map(value => value / length);
      const r = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
      ];
      const covariance = (a, b) => r[a][0] * r[b][0] * s[0] + r[a][1] * r[b][1] * s[1] + r[a][2] * r[b][2] * s[2];
      for (let k = 0; k < 3; k++) means[3 * i + k] = between(ranges.means, n[k]);
      texels.set([
        means[3 * i], means[3 * i + 1], means[3 * i + 2], n[13],
        covariance(0, 0), covariance(0, 1), covariance(0, 2), covariance(1, 1),
        covariance(1, 2), covariance(2, 2), 0, 0,
        n[10], n[11], n[12], 0,
      ], i * 16);
    }
  }

  // ---------------------------------------------------------------- programs
  const VERTEX = `#version 300 es
    precision highp float; precision highp int; precision highp sampler2D;
    uniform sampler2D gaussians; uniform mat3 turn; uniform vec3 centre; uniform float focal; uniform vec2 size;
    in vec2 corner; in uint which;
    out vec2 at; flat out vec4 colour;
    vec4 texel(int k) { int n = int(which) * 4 + k; return texelFetch(gaussians, ivec2(n % ${WIDTH}, n / ${WIDTH}), 0); }
    void main() {
      gl_Position = vec4(0.0, 0.0, 2.0, 1.0); at = vec2(0.0); colour = vec4(0.0);
      vec4 mean = texel(0), a = texel(1), b = texel(2);
      vec3 p = turn * (mean.xyz - centre);
      if (p.z < ${NEAR} || mean.w < 1.0 / 255.0) return;
      mat3 world = mat3(a.x, a.y, a.z, a.y, a.w, b.x, a.z, b.x, b.y);
      mat3 seen = turn * world * transpose(turn);
      vec2 limit = 1.3 * 0.5 * size / focal;  // as the renderers: far outside the frame, a plane fits the lens no more
      vec2 t = clamp(p.xy / p.z, -limit, limit) * p.z;
      vec3 u = focal / p.z * vec3(1.0, 0.0, -t.x / p.z), v = focal / p.z * vec3(0.0, 1.0, -t.y / p.z);
      float xx = dot(u, seen * u) + 0.3, yy = dot(v, seen * v) + 0.3, xy = dot(u, seen * v);
      float middle = 0.5 * (xx + yy), apart = sqrt(max(0.25 * (xx - yy) * (xx - yy) + xy * xy, 1e-12));
      float long_ = middle + apart, short_ = max(middle - apart, 1e-6);
      vec2 axis = abs(xy) > 1e-6 ? normalize(vec2(xy, long_ - xx)) : (xx >= yy ? vec2(1.0, 0.0) : vec2(0.0, 1.0));
      float reach = sqrt(2.0 * log(255.0 * mean.w));  // where the opacity has come down to 1/255
      at = corner * reach;
      vec2 pixels = axis * at.x * sqrt(long_) + vec2(-axis.y, axis.x) * at.y * sqrt(short_);
      vec2 place = focal * p.xy / p.z + pixels;
      gl_Position = vec4(2.0 * place.x / size.x, -2.0 * place.y / size.y, 0.0, 1.0);
      colour = vec4(texel(3).rgb, mean.w);
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    in vec2 at; flat in vec4 colour; out vec4 result;
    void main() {
      float opacity = min(0.999, colour.a * exp(-0.5 * dot(at, at)));
      if (opacity < 1.0 / 255.0) discard;
      result = vec4(colour.rgb * opacity, opacity);
    }`;
  const WHOLE = `#version 300 es
    in vec2 corner; void main() { gl_Position = vec4(corner, 0.0, 1.0); }`;
  const OVER = `#version 300 es
    precision highp float; uniform sampler2D drawn; uniform float ground; uniform bool opacity; out vec4 result;
    void main() {
      vec4 c = texelFetch(drawn, ivec2(gl_FragCoord.xy), 0);
      result = vec4(opacity ? vec3(c.a) : c.rgb + (1.0 - c.a) * ground, 1.0);
    }`;
  const LINE = `#version 300 es
    precision highp float;
    uniform mat3 turn; uniform vec3 centre; uniform float focal; uniform vec2 size; in vec3 place;
    void main() {
      vec3 p = turn * (place - centre);
      gl_Position = vec4(2.0 * focal * p.x / size.x, -2.0 * focal * p.y / size.y, p.z - 2.0 * ${NEAR}, p.z);
    }`;
  const PLAIN = `#version 300 es
    precision highp float; uniform vec3 colour; out vec4 result; void main() { result = vec4(colour, 1.0); }`;

  function program(vertex, fragment) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    return made;
  }

  const splats = program(VERTEX, FRAGMENT), over = program(WHOLE, OVER), lines = program(LINE, PLAIN);
  const uniform = (of, name) => gl.getUniformLocation(of, name);
  const corners = gl.createBuffer(), order = gl.createBuffer(), edges = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, corners);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);

  // Each camera as the pyramid through its picture's corners (LINES): four edges from its centre, four around.
  const pyramid = ({centre, corners: c}) => [0, 1, 2, 3].flatMap(k => [centre, c[k], c[k], c[(k + 1) % 4]].flat());
  gl.bindBuffer(gl.ARRAY_BUFFER, edges);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(facts.cameras.flatMap(pyramid)), gl.STATIC_DRAW);
  const PER_CAMERA = 16;  // ends of lines

  function attributes(of, withNumbers) {
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, corners);
    const corner = gl.getAttribLocation(of, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    if (withNumbers) {
      gl.bindBuffer(gl.ARRAY_BUFFER, order);
      const which = gl.getAttribLocation(of, "which");
      gl.enableVertexAttribArray(which);
      gl.vertexAttribIPointer(which, 1, gl.UNSIGNED_INT, 0, 0);
      gl.vertexAttribDivisor(which, 1);
    }
    return array;
  }
  const ofSplats = attributes(splats, true), ofOver = attributes(over, false), ofLines = gl.createVertexArray();
  gl.bindVertexArray(ofLines);
  gl.bindBuffer(gl.ARRAY_BUFFER, edges);
  gl.enableVertexAttribArray(gl.getAttribLocation(lines, "place"));
  gl.vertexAttribPointer(gl.getAttribLocation(lines, "place"), 3, gl.FLOAT, false, 0, 0);

  function texture(format, width, height, kind, data) {
    const made = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, made);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, format, width, height, 0, gl.RGBA, kind, data);
    return made;
  }
  let stored = null, shown = -1;
  function show(step) {
    if (step === shown || !facts.steps[step]) return;
    shown = step;
    unpack(step);
    if (stored) gl.deleteTexture(stored);
    stored = texture(gl.RGBA32F, WIDTH, rows, gl.FLOAT, texels);
    named("said").textContent = facts.steps[step].said;
    if (named("step")) {
      named("step").value = step;
      named("step").setAttribute("aria-valuetext", facts.steps[step].label);
      named("label").textContent = facts.steps[step].label;
    }
    refresh();
  }
  // Faint layers by the hundred: in bytes each of them would be rounded. Half floats can be blended by all that draw
  // to them at all.
  const fine = gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float");
  const frame = gl.createFramebuffer();
  let drawn = null;

  function resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (drawn && canvas.width === width && canvas.height === height) return;
    [canvas.width, canvas.height] = [width, height];
    if (drawn) gl.deleteTexture(drawn);
    drawn = fine ? texture(gl.RGBA16F, width, height, gl.HALF_FLOAT, null) : texture(gl.RGBA, width, height, gl.UNSIGNED_BYTE, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, drawn, 0);
  }

  // ---------------------------------------------------------------- the camera
  const radians = degrees => degrees * Math.PI / 180;
  const begin = () => ({...facts.camera, target: [...facts.camera.target]});
  let eye = begin(), looking = -1;  // the input camera through which it was last looked

  function camera() {
    const a = radians(eye.azimuth), e = radians(eye.elevation);
    const away = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
    const forward = away.map(value => -value), right = [-Math.sin(a), Math.cos(a), 0];
    const down = [
      forward[1] * right[2] - forward[2] * right[1],
      forward[2] * right[0] - forward[0] * right[2],
      forward[0] * right[1] - forward[1] * right[0],
    ];
    const centre = away.map((value, k) => eye.target[k] + eye.distance * value);
    return {right, down, forward, centre};
  }

  // Numbers of the Gaussians from the farthest to the nearest, by counting them in slices of depth.
  const counts = new Uint32Array(BUCKETS + 1);
  function sort(forward) {
    let least = Infinity, most = -Infinity;
    for (let i = 0; i < count; i++) {
      const depth = means[3 * i] * forward[0] + means[3 * i + 1] * forward[1] + means[3 * i + 2] * forward[2];
      depths[i] = depth;
      if (depth < least) least = depth;
      if (depth > most) most = depth;
    }
    const scale = (BUCKETS - 1) / (most - least || 1);
    counts.fill(0);
    for (let i = 0; i < count; i++) counts[1 + (((most - depths[i]) * scale) | 0)]++;
    for (let k = 0; k < BUCKETS; k++) counts[k + 1] += counts[k];
    for (let i = 0; i < count; i++) numbers[counts[((most - depths[i]) * scale) | 0]++] = i;
    gl.bindBuffer(gl.ARRAY_BUFFER, order);
    gl.bufferData(gl.ARRAY_BUFFER, numbers, gl.DYNAMIC_DRAW);
  }

  function place(of, {right, down, forward, centre}, width, height) {
    gl.useProgram(of);
    gl.uniformMatrix3fv(uniform(of, "turn"), true, [...right, ...down, ...forward]);
    gl.uniform3fv(uniform(of, "centre"), centre);
    gl.uniform1f(uniform(of, "focal"), Math.min(width, height) / 2 / Math.tan(radians(eye.fov) / 2));
    gl.uniform2f(uniform(of, "size"), width, height);
  }

  function draw() {
    resize();
    const now = camera(), [width, height] = [canvas.width, canvas.height];
    sort(now.forward);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindTexture(gl.TEXTURE_2D, stored);
    place(splats, now, width, height);
    gl.bindVertexArray(ofSplats);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.BLEND);
    gl.useProgram(over);
    gl.bindTexture(gl.TEXTURE_2D, drawn);
    gl.uniform1f(uniform(over, "ground"), GROUNDS[ground][1]);
    gl.uniform1i(uniform(over, "opacity"), opacity);
    gl.bindVertexArray(ofOver);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    if (frusta) {
      place(lines, now, width, height);
      gl.bindVertexArray(ofLines);
      facts.cameras.forEach((_, n) => {
        gl.uniform3fv(uniform(lines, "colour"), n === looking ? [0.85, 0.35, 0.1] : [0.2, 0.5, 0.85]);
        gl.drawArrays(gl.LINES, n * PER_CAMERA, PER_CAMERA);
      });
    }
    document.documentElement.dataset.state = "drawn";
  }

  let asked = false, turning = false, last = 0;
  function refresh() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(now => {
      asked = false;
      if (turning) { eye.azimuth += Math.min(now - last, 100) * 0.03; tell(); }
      last = now;
      draw();
      if (turning) refresh();
    });
  }

  // ---------------------------------------------------------------- hands
  // A page that shows several of these turns them together: what is done here is told to it, and it tells the others.
  function tell() {
    if (window.parent !== window) window.parent.postMessage({mouselift: "camera", eye}, "*");
  }
  window.addEventListener("message", ({data, source}) => {
    if (source !== window.parent || !data || data.mouselift !== "camera" || !data.eye) return;
    const {target, distance, azimuth, elevation, fov} = data.eye;
    if (![distance, azimuth, elevation, fov, ...(target || [NaN])].every(Number.isFinite) || target.length !== 3) return;
    eye = {target: [...target], distance, azimuth, elevation, fov};
    refresh();
  });
  function moved() { tell(); refresh(); }
  function orbit(x, y) {
    eye.azimuth -= x * 0.4;
    eye.elevation = Math.max(-89, Math.min(89, eye.elevation + y * 0.4));
    moved();
  }
  function zoom(factor) {
    eye.distance = Math.max(0.3, Math.min(Math.max(20, 5 * reach), eye.distance * factor));
    moved();
  }
  function move(x, y) {
    const {right, down} = camera();
    const unit = 2 * eye.distance * Math.tan(radians(eye.fov) / 2) / Math.min(canvas.clientWidth, canvas.clientHeight);
    eye.target = eye.target.map((value, k) => value - unit * (x * right[k] + y * down[k]));
    moved();
  }
  function look(by) {
    if (!facts.cameras.length) return;
    looking = (Math.max(looking, by > 0 ? -1 : 0) + by + facts.cameras.length) % facts.cameras.length;
    eye = {...facts.cameras[looking].eye, target: [...facts.cameras[looking].eye.target]};
    moved();
  }

  const fingers = new Map();
  const spread = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, {x: event.clientX, y: event.clientY});
  });
  canvas.addEventListener("pointermove", event => {
    const from = fingers.get(event.pointerId);
    if (!from) return;
    const [x, y] = [event.clientX - from.x, event.clientY - from.y];
    const apart = fingers.size === 2 ? spread() : 0;
    fingers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    if (fingers.size === 2) {
      zoom(apart / Math.max(spread(), 1));
      move(x / 2, y / 2);
    } else if (event.buttons & 2 || event.shiftKey) move(x, y);
    else orbit(x, y);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => fingers.delete(event.pointerId));
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.0015));
  }, {passive: false});
  const apart = ({centre}) => Math.hypot(...centre.map((value, k) => value - facts.camera.target[k]));
  const reach = Math.max(0, ...facts.cameras.map(apart));  // of the farthest input camera
  let among = null;  // where one stood before the input cameras were shown
  const actions = {
    ground: () => { ground = (ground + 1) % GROUNDS.length; mark(); },
    opacity: () => { opacity = !opacity; mark(); },
    cameras: () => {  // they stand around the scene: from among them most are out of sight
      frusta = facts.cameras.length > 0 && !frusta;
      if (frusta) {
        among = eye;
        const fov = Math.max(eye.fov, 50), distance = Math.max(eye.distance, 1.25 * reach / Math.tan(radians(fov) / 2));
        eye = {...eye, azimuth: eye.azimuth + 25, elevation: Math.max(eye.elevation, 35), distance, fov};
      } else if (among) eye = among;
      mark();
      tell();
    },
    look: () => look(1),
    turn: () => { turning = !turning; last = performance.now(); mark(); },
    reset: () => { eye = begin(); looking = -1; moved(); },
  };
  function mark() {
    const pressed = {opacity, cameras: frusta, turn: turning};
    for (const [name, value] of Object.entries(pressed)) if (named(name)) named(name).setAttribute("aria-pressed", value);
    named("ground").textContent = `Background: ${GROUNDS[ground][0]}`;
    document.body.style.background = GROUNDS[ground][2];
    refresh();
  }
  for (const name of Object.keys(actions)) if (named(name)) named(name).addEventListener("click", actions[name]);
  if (named("step")) named("step").addEventListener("input", event => show(Number(event.target.value)));
  canvas.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      ArrowLeft: () => orbit(-25, 0), ArrowRight: () => orbit(25, 0), ArrowUp: () => orbit(0, 25),
      ArrowDown: () => orbit(0, -25), "+": () => zoom(0.9), "=": () => zoom(0.9), "-": () => zoom(1 / 0.9),
      "[": () => look(-1), "]": () => look(1), ",": () => show(shown - 1), ".": () => show(shown + 1),
      b: actions.ground, o: actions.opacity, c: actions.cameras, t: actions.turn, Home: actions.reset,
    };
    if (keys[event.key]) { keys[event.key](); event.preventDefault(); }
  });
  canvas.addEventListener("webglcontextlost", () => fail("The browser has taken the graphics memory of this page away. Load it again."));
  window.addEventListener("resize", refresh);
  mark();
  show(facts.steps.length - 1);
})();
