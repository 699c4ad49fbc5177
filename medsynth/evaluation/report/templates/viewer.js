// Linked views of the volumes of a subject, one canvas each, drawn by NiiVue.
"use strict";
const ERROR_COLOURS = { R: [0, 0, 0, 230, 255], G: [190, 90, 0, 120, 220], B: [255, 178, 0, 0, 120], A: [255, 255, 255, 255, 255], I: [0, 64, 128, 192, 255] };
const PLANES = { axial: { type: 0, axis: 2 }, coronal: { type: 1, axis: 1 }, sagittal: { type: 2, axis: 0 } };

for (const viewer of document.querySelectorAll("[data-viewer]")) {
  const find = (name) => viewer.querySelector(`[data-${name}]`);
  const [caseMenu, planeMenu, slider, readout] = ["case", "plane", "slice", "readout"].map(find);
  const volumesOf = (name) => [...viewer.querySelectorAll("script[data-volume]")].filter((s) => s.dataset.volume === name);
  let views = [];

  const show = (text) => (Math.abs(text) >= 100 ? text.toFixed(0) : text.toPrecision(3)).replace("-", "\u2212");

  function tell(location) {
    const { axis } = PLANES[planeMenu.value];
    const count = views[0].nv.volumes[0].dimsRAS[axis + 1];
    const slice = Math.min(count - 1, Math.floor(location[axis] * count));
    slider.max = count - 1;
    slider.value = slice;
    find("number").textContent = `${slice + 1} of ${count}`;
    const values = views.map(({ nv, script }) => {
      const vox = nv.frac2vox(location);
      return `${script.dataset.name} ${show(nv.volumes[0].getValue(...vox))} ${script.dataset.unit}`;
    });
    readout.textContent = `At the cross: ${values.join(" \u00b7 ")}`;
    slider.setAttribute("aria-valuetext", `slice ${slice + 1} of ${count}; ${values.join(", ")}`);
  }

  function moveTo(location, from) {
    for (const { nv } of views) {
      if (nv === from) continue;
      nv.scene.crosshairPos = [...location];
      nv.drawScene();
    }
    tell(location);
  }

  async function view(script) {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    const { name, low, high, unit } = script.dataset;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${name} of ${script.dataset.volume}`);
    caption.textContent = `${name}, ${show(Number(low))} to ${show(Number(high))} ${unit}`;
    const frame = document.createElement("div");
    frame.append(canvas);
    figure.append(frame, caption);
    find("canvases").append(figure);
    const nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.34, 0.71, 0.91, 0.8], crosshairWidth: 0.4, isRadiologicalConvention: true,
      isColorbar: false, dragAndDropEnabled: false, scrollRequiresFocus: true, loadingText: "", logLevel: "error",
      isNearestInterpolation: true, fontColor: [0.85, 0.85, 0.85, 1], textHeight: 0.05,
    });
    await nv.attachToCanvas(canvas);
    nv.addColormap("signed error", ERROR_COLOURS);
    const image = await niivue.NVImage.loadFromBase64({
      base64: script.textContent, name: `${name}.nii.gz`, colormap: name === "error" ? "signed error" : "gray",
      cal_min: Number(low), cal_max: Number(high), trustCalMinMax: false,
    });
    image.cal_min = Number(low);
    image.cal_max = Number(high);
    nv.addVolume(image);
    nv.onLocationChange = ({ frac }) => moveTo(frac, nv);
    return { nv, script };
  }

  async function open() {
    viewer.dataset.state = "loading";
    for (const { nv } of views) nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    find("canvases").replaceChildren();
    views = [];
    for (const script of volumesOf(caseMenu.value)) views.push(await view(script));
    turn();
    moveTo([0.5, 0.5, 0.5]);
    viewer.dataset.state = "ready";
  }

  function turn() {
    for (const { nv } of views) nv.setSliceType(PLANES[planeMenu.value].type);
    if (views.length) tell(views[0].nv.scene.crosshairPos);
  }

  caseMenu.addEventListener("change", open);
  planeMenu.addEventListener("change", turn);
  slider.addEventListener("input", () => {
    const { axis } = PLANES[planeMenu.value];
    const location = [...views[0].nv.scene.crosshairPos];
    location[axis] = (Number(slider.value) + 0.5) / (Number(slider.max) + 1);
    moveTo(location);
  });
  open().catch((error) => {
    viewer.dataset.state = "failed";
    readout.textContent = `The volumes cannot be drawn here: ${error.message}. WebGL 2 is needed.`;
  });
}
