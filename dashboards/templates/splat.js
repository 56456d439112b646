"use strict";
// Gaussians drawn as 3D Gaussian splatting draws them: each is projected to an ellipse, the farthest first, and laid
// over what is there. World: z up. Camera: x right, y down, z forward, as in mouselift's own renderers.
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const canvas = document.getElementById("view");
  const COUNT = facts.count, PER = 14, STEPS = 65535, WIDTH = 1024, NEAR = 0.2, BUCKETS = 65536;
  const GROUNDS = [[1, 1, 1], [0.5, 0.5, 0.5]];
  let ground = 0;

  function fail(text) {
    const place = document.getElementById("problem");
    place.textContent = text;
    place.hidden = false;
    document.documentElement.dataset.state = "failed";
  }

  const gl = canvas.getContext("webgl2", {alpha: false, antialias: false, preserveDrawingBuffer: true});
  if (!gl) { fail("This page needs WebGL 2, which this browser does not offer."); return; }

  // ---------------------------------------------------------------- the Gaussians
  const text = atob(document.getElementById("data").textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  const rows = Math.max(1, Math.ceil(COUNT * 4 / WIDTH));
  const texels = new Float32Array(rows * WIDTH * 4);  // four texels of four numbers each
  const means = new Float32Array(COUNT * 3);
  const between = ([least, most], share) => least + (most - least) * share;
  for (let i = 0; i < COUNT; i++) {
    const n = Array.from({length: PER}, (_, k) => view.getUint16((i * PER + k) * 2, true) / STEPS);
    const s = [3, 4, 5].map(k => Math.exp(between(facts.scales, n[k])) ** 2);
    const q = [6, 7, 8, 9].map(k => 2 * n[k] - 1);
    const length = Math.hypot(...q) || 1;
    const [w, x, y, z] = q.map(value => value / length);
    const r = [
      [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
      [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
      [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ];
    const covariance = (a, b) => r[a][0] * r[b][0] * s[0] + r[a][1] * r[b][1] * s[1] + r[a][2] * r[b][2] * s[2];
    for (let k = 0; k < 3; k++) means[3 * i + k] = between(facts.means, n[k]);
    texels.set([
      means[3 * i], means[3 * i + 1], means[3 * i + 2], n[13],
      covariance(0, 0), covariance(0, 1), covariance(0, 2), covariance(1, 1),
      covariance(1, 2), covariance(2, 2), 0, 0,
      n[10], n[11], n[12], 0,
    ], i * 16);
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
    precision highp float; uniform sampler2D drawn; uniform vec3 ground; out vec4 result;
    void main() {
      vec4 c = texelFetch(drawn, ivec2(gl_FragCoord.xy), 0);
      result = vec4(c.rgb + (1.0 - c.a) * ground, 1.0);
    }`;

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

  const splats = program(VERTEX, FRAGMENT), over = program(WHOLE, OVER);
  const uniform = (of, name) => gl.getUniformLocation(of, name);
  const corners = gl.createBuffer(), order = gl.createBuffer(), numbers = new Uint32Array(COUNT);
  gl.bindBuffer(gl.ARRAY_BUFFER, corners);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);

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
  const ofSplats = attributes(splats, true), ofOver = attributes(over, false);

  function texture(format, width, height, kind, data) {
    const made = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, made);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, format, width, height, 0, gl.RGBA, kind, data);
    return made;
  }
  const stored = texture(gl.RGBA32F, WIDTH, rows, gl.FLOAT, texels);
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
  let eye = begin();

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
  const depths = new Float32Array(COUNT), counts = new Uint32Array(BUCKETS + 1);
  function sort(forward) {
    let least = Infinity, most = -Infinity;
    for (let i = 0; i < COUNT; i++) {
      const depth = means[3 * i] * forward[0] + means[3 * i + 1] * forward[1] + means[3 * i + 2] * forward[2];
      depths[i] = depth;
      if (depth < least) least = depth;
      if (depth > most) most = depth;
    }
    const scale = (BUCKETS - 1) / (most - least || 1);
    counts.fill(0);
    for (let i = 0; i < COUNT; i++) counts[1 + (((most - depths[i]) * scale) | 0)]++;
    for (let k = 0; k < BUCKETS; k++) counts[k + 1] += counts[k];
    for (let i = 0; i < COUNT; i++) numbers[counts[((most - depths[i]) * scale) | 0]++] = i;
    gl.bindBuffer(gl.ARRAY_BUFFER, order);
    gl.bufferData(gl.ARRAY_BUFFER, numbers, gl.DYNAMIC_DRAW);
  }

  function draw() {
    resize();
    const {right, down, forward, centre} = camera(), [width, height] = [canvas.width, canvas.height];
    sort(forward);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(splats);
    gl.bindTexture(gl.TEXTURE_2D, stored);
    gl.uniformMatrix3fv(uniform(splats, "turn"), true, [...right, ...down, ...forward]);
    gl.uniform3fv(uniform(splats, "centre"), centre);
    gl.uniform1f(uniform(splats, "focal"), Math.min(width, height) / 2 / Math.tan(radians(eye.fov) / 2));
    gl.uniform2f(uniform(splats, "size"), width, height);
    gl.bindVertexArray(ofSplats);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, COUNT);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.BLEND);
    gl.useProgram(over);
    gl.bindTexture(gl.TEXTURE_2D, drawn);
    gl.uniform3fv(uniform(over, "ground"), GROUNDS[ground]);
    gl.bindVertexArray(ofOver);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    document.documentElement.dataset.state = "drawn";
  }

  let asked = false, turning = false, last = 0;
  function refresh() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(now => {
      asked = false;
      if (turning) eye.azimuth += Math.min(now - last, 100) * 0.03;
      last = now;
      draw();
      if (turning) refresh();
    });
  }

  // ---------------------------------------------------------------- hands
  function orbit(x, y) {
    eye.azimuth -= x * 0.4;
    eye.elevation = Math.max(-89, Math.min(89, eye.elevation + y * 0.4));
    refresh();
  }
  function zoom(factor) {
    eye.distance = Math.max(0.3, Math.min(20, eye.distance * factor));
    refresh();
  }
  function move(x, y) {
    const {right, down} = camera();
    const unit = 2 * eye.distance * Math.tan(radians(eye.fov) / 2) / Math.min(canvas.clientWidth, canvas.clientHeight);
    eye.target = eye.target.map((value, k) => value - unit * (x * right[k] + y * down[k]));
    refresh();
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
  canvas.addEventListener("keydown", event => {
    const keys = {
      ArrowLeft: () => orbit(-25, 0), ArrowRight: () => orbit(25, 0), ArrowUp: () => orbit(0, 25),
      ArrowDown: () => orbit(0, -25), "+": () => zoom(0.9), "=": () => zoom(0.9), "-": () => zoom(1 / 0.9),
    };
    if (keys[event.key]) { keys[event.key](); event.preventDefault(); }
  });
  const button = name => document.getElementById(name);
  button("ground").addEventListener("click", () => {
    ground = 1 - ground;
    button("ground").textContent = ground ? "White background" : "Grey background";
    document.body.style.background = ground ? "#808080" : "#fff";
    refresh();
  });
  button("turn").addEventListener("click", () => {
    turning = !turning;
    button("turn").setAttribute("aria-pressed", turning);
    last = performance.now();
    refresh();
  });
  button("reset").addEventListener("click", () => { eye = begin(); refresh(); });
  canvas.addEventListener("webglcontextlost", () => fail("The browser has taken the graphics memory of this page away. Load it again."));
  window.addEventListener("resize", refresh);
  refresh();
})();
