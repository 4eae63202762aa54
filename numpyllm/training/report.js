// Hovering over a chart shows the step under the pointer and what each curve is there; a run's box in the legend shows and hides
// it in all charts. Texts go in as text, never as HTML.
"use strict";
for (const box of document.querySelectorAll("input[data-toggle]")) {
  const show = () => {
    for (const part of document.querySelectorAll(`[data-run="${box.dataset.toggle}"]`)) part.classList.toggle("hidden", !box.checked);
  };
  box.addEventListener("change", show);
  show();       // a browser that goes back to a page keeps the boxes as they were
}
for (const svg of document.querySelectorAll("svg.chart")) {
  const card = svg.parentElement, width = svg.viewBox.baseVal.width, height = svg.viewBox.baseVal.height;
  const curves = [...svg.querySelectorAll("path[data-points]")].map(path => ({
    label: path.dataset.label, colour: path.getAttribute("class").match(/c\d/)[0], group: path.parentElement,
    points: path.dataset.points.split(";").map(point => {
      const [x, told, at] = point.split(" ");
      return { x: Number(x), told, at: Number(at) };
    }),
  }));
  const rule = document.createElementNS("http://www.w3.org/2000/svg", "path");
  rule.setAttribute("class", "rule");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  card.append(tip);
  const nearest = (points, at) => points.reduce((a, b) => Math.abs(b.at - at) < Math.abs(a.at - at) ? b : a);

  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * width;
    const found = curves.filter(curve => !curve.group.classList.contains("hidden")).map(curve => ({ ...curve, point: nearest(curve.points, at) }));
    if (!found.length) return;
    const here = nearest(found.map(curve => curve.point), at);
    rule.setAttribute("d", `M${here.at} 10V${height - 28}`);
    svg.append(rule);
    const line = (text, colour) => {
      const p = document.createElement("p");
      p.textContent = text;
      if (colour) p.className = colour;
      return p;
    };
    tip.replaceChildren(line(`step ${here.x.toLocaleString("en")}`), ...found.map(curve =>
      line(`${curve.label}  ${curve.point.told}` + (curve.point.x === here.x ? "" : `  (step ${curve.point.x})`), curve.colour)));
    tip.hidden = false;
    const frame = card.getBoundingClientRect(), x = box.left - frame.left + here.at / width * box.width;
    tip.style.left = `${Math.max(4, here.at > width / 2 ? x - tip.offsetWidth - 12 : x + 12)}px`;
    tip.style.top = `${box.top - frame.top + 14}px`;
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; rule.remove(); });
}
