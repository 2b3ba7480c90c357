"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const fine = matchMedia("(pointer: fine)").matches;

  // Colours in the figures are names of CSS variables: what they stand for changes with the theme.
  const painted = (node, key, style) => {
    if (typeof node === "string") {
      return /color$/.test(key) && node.startsWith("--") ? style.getPropertyValue(node).trim() : node;
    }
    if (Array.isArray(node)) return node.map((inner) => painted(inner, key, style));
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([name, inner]) => [name, painted(inner, name, style)]));
  };
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  // The names of phases over a time line, cut to the room that each has.
  const names = (spans, range, width) =>
    spans.flatMap(([name, from, to]) => {
      const letters = Math.floor(((to - from) / (range[1] - range[0]) * width - 6) / 6.2);
      if (letters < 3) return [];
      const text = escaped(name.length > letters ? name.slice(0, letters - 1) + "…" : name);
      return [{ x: from, y: 1, yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false, text, font: { size: 11, color: "--quiet" } }];
    });

  const draw = () => {
    const style = getComputedStyle(root);
    for (const chart of charts) {
      const place = document.getElementById("chart-" + chart.id);
      const width = place.clientWidth;
      // In a narrow window the legend stands in a column of its own height.
      const height = chart.height + (width < 480 && chart.data.length > 2 ? 17 * chart.data.length : 0);
      place.style.height = height + "px";
      const layout = { ...chart.layout, width, height, dragmode: fine ? "zoom" : false };
      layout.font = { ...layout.font, family: style.fontFamily || "system-ui, sans-serif" };
      if (layout.meta && layout.meta.spans) {
        layout.annotations = names(layout.meta.spans, layout.xaxis.range, width - 60);
        layout.legend = { ...layout.legend, y: 1 + 26 / (chart.height - 110) };
      }
      if (width < 480) layout.xaxis = { ...layout.xaxis, nticks: 5 };
      Plotly.react(place, painted(chart.data, "", style), painted(layout, "", style), { displayModeBar: false, showTips: false });
    }
  };
  if (!charts.length) return;
  draw();

  let asked = 0;
  const later = () => { cancelAnimationFrame(asked); asked = requestAnimationFrame(draw); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  let before = root.clientWidth;
  addEventListener("resize", () => { if (root.clientWidth !== before) { before = root.clientWidth; later(); } });

  // Paper is white and narrower than most windows.
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    document.body.style.width = "180mm";
    draw();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.theme;
    document.body.style.width = "";
    draw();
  });
})();
