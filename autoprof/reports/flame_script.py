"""The script and the colours inside our flame graphs: zoom, search, keyboard."""

from __future__ import annotations

STYLE = """
.autoprof-flame{font:11px ui-monospace,Menlo,Consolas,monospace;background:#fff;color:#1b1b1b}
.autoprof-flame .head{font:600 14px system-ui,sans-serif;fill:currentColor}
.autoprof-flame .note{fill:currentColor;opacity:.75}
.autoprof-flame .f{cursor:pointer}
.autoprof-flame .f text{fill:#1b1b1b;pointer-events:none}
.autoprof-flame .f:hover rect,.autoprof-flame .f:focus rect{stroke:#000;stroke-width:1.5}
.autoprof-flame .f:focus{outline:none}
.autoprof-flame .f.above{opacity:.55}
.autoprof-flame .f.hit rect{fill:#8e5bd0}
.autoprof-flame .f.hit text{fill:#fff}
.autoprof-flame input,.autoprof-flame button{font:12px system-ui,sans-serif;height:22px;box-sizing:border-box}
.autoprof-flame input{width:200px;margin-right:6px}
@media (prefers-color-scheme:dark){
.autoprof-flame{background:#16181c;color:#e6e6e6}
.autoprof-flame .f:hover rect,.autoprof-flame .f:focus rect{stroke:#fff}
}
""".strip()

# Frames come in preorder, so parents are found by depth; a rect's own x and width are its unzoomed place.
SCRIPT = r"""
(function () {
  "use strict";
  var WIDTH = 1200, CHAR = 6.65, XHTML = "http://www.w3.org/1999/xhtml", SVG = "http://www.w3.org/2000/svg";

  function start(svg) {
    var frames = [], open = [], info = svg.querySelector(".info"), plain = info ? info.textContent : "";
    svg.querySelectorAll(".f").forEach(function (g) {
      var rect = g.querySelector("rect"), label = g.querySelector("title").textContent.split("\n")[0];
      var place = /^([\s\S]*) \(.*:\d+\)$/.exec(label);
      var f = {g: g, rect: rect, text: g.querySelector("text"), label: label, name: place ? place[1] : label,
        x: +rect.getAttribute("x"), w: +rect.getAttribute("width"), y: +rect.getAttribute("y"),
        parent: null, children: []};
      while (open.length && open[open.length - 1].y >= f.y) open.pop();
      if (open.length) { f.parent = open[open.length - 1]; f.parent.children.push(f); }
      open.push(f);
      frames.push(f);
      g.setAttribute("tabindex", "-1");
      g.setAttribute("role", "button");
      g.setAttribute("aria-label", g.querySelector("title").textContent);
      g.addEventListener("click", function () { zoom(f); focus(f); });
      g.addEventListener("keydown", function (event) { key(event, f); });
    });
    if (!frames.length) return;
    var root = frames[0], current = root;
    root.g.setAttribute("tabindex", "0");

    function place(f, x, w, above) {
      var shown = w >= 0.3 && x < WIDTH && x + w > 0;
      f.g.style.display = shown ? "" : "none";
      if (!shown) return;
      f.rect.setAttribute("x", x.toFixed(2));
      f.rect.setAttribute("width", w.toFixed(2));
      f.g.classList.toggle("above", above);
      var room = Math.floor((w - 6) / CHAR), name = f.name;
      if (!f.text) {
        f.text = document.createElementNS(SVG, "text");
        f.text.setAttribute("y", String(f.y + 12));
        f.g.appendChild(f.text);
      }
      f.text.setAttribute("x", (x + 3).toFixed(2));
      f.text.textContent = room < 3 ? "" : name.length <= room ? name : name.slice(0, room - 1) + "…";
    }

    function zoom(to) {
      current = to;
      var scale = WIDTH / to.w, above = new Set();
      for (var up = to.parent; up; up = up.parent) above.add(up);
      frames.forEach(function (f) {
        if (above.has(f)) place(f, 0, WIDTH, true);
        else if (f.y < to.y) place(f, WIDTH + 1, 0, false);
        else place(f, (f.x - to.x) * scale, f.w * scale, false);
      });
      reset.disabled = to === root;
    }

    function focus(f) {
      if (f.g.style.display === "none") zoom(root);
      svg.querySelectorAll(".f[tabindex='0']").forEach(function (g) { g.setAttribute("tabindex", "-1"); });
      f.g.setAttribute("tabindex", "0");
      f.g.focus();
    }

    function key(event, f) {
      var siblings = f.parent ? f.parent.children : [f], at = siblings.indexOf(f), to = null;
      if (event.key === "Enter" || event.key === " ") { zoom(f); to = f; }
      else if (event.key === "Escape") { zoom(root); to = f; }
      else if (event.key === "ArrowUp") to = f.parent;
      else if (event.key === "ArrowDown") to = f.children[0];
      else if (event.key === "ArrowLeft") to = siblings[at - 1];
      else if (event.key === "ArrowRight") to = siblings[at + 1];
      else return;
      event.preventDefault();
      if (to) focus(to);
    }

    function search(text) {
      var wanted = text.toLowerCase(), covered = -1, sum = 0, hits = 0;
      frames.forEach(function (f) {
        var hit = wanted !== "" && f.label.toLowerCase().indexOf(wanted) >= 0;
        f.g.classList.toggle("hit", hit);
        if (!hit) return;
        hits += 1;
        if (f.x + 0.005 >= covered) { sum += f.w; covered = f.x + f.w; }
      });
      if (info) info.textContent = wanted === "" ? plain
        : hits + (hits === 1 ? " frame matches, " : " frames match, ") +
          (100 * sum / root.w).toFixed(1) + "% of all";
    }

    var box = document.createElementNS(SVG, "foreignObject");
    box.setAttribute("x", String(WIDTH - 330));
    box.setAttribute("y", "6");
    box.setAttribute("width", "330");
    box.setAttribute("height", "26");
    var bar = document.createElementNS(XHTML, "div"), input = document.createElementNS(XHTML, "input");
    var reset = document.createElementNS(XHTML, "button");
    bar.style.textAlign = "right";
    input.setAttribute("type", "search");
    input.setAttribute("placeholder", "Search frames");
    input.setAttribute("aria-label", "Search frames");
    input.addEventListener("input", function () { search(input.value); });
    reset.setAttribute("type", "button");
    reset.textContent = "Reset zoom";
    reset.disabled = true;
    reset.addEventListener("click", function () { zoom(root); });
    bar.appendChild(input);
    bar.appendChild(reset);
    box.appendChild(bar);
    svg.appendChild(box);
  }

  document.querySelectorAll("svg.autoprof-flame").forEach(start);
})();
""".strip()
