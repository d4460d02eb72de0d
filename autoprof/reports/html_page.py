"""The style and the script of HTML reports."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--line:#d8dbe0;--soft:#5c6470;--page:#fff;--card:#f6f7f9;--ink:#1b1b1b;
--link:#7a3e00}
@media (prefers-color-scheme:dark){
:root{--line:#33373e;--soft:#a2a9b4;--page:#101216;--card:#1a1d22;--ink:#e6e6e6;--link:#ffb066}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem;max-width:1280px;background:var(--page);color:var(--ink);
font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.35rem;margin:0 0 .2rem}
h2{font-size:1.05rem;margin:1.6rem 0 .5rem}
p.soft,.soft{color:var(--soft);margin:.1rem 0}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th{background:var(--card);font-weight:600;padding:0}
th button{all:unset;box-sizing:border-box;display:block;width:100%;padding:.4rem .6rem;cursor:pointer}
table.plain th{padding:.4rem .6rem}
th button:focus-visible,summary:focus-visible,a:focus-visible{
outline:2px solid var(--link);outline-offset:-2px}
th[aria-sort=descending] button::after{content:" \\25be"}
th[aria-sort=ascending] button::after{content:" \\25b4"}
.name{text-align:left}
td.mono{white-space:normal;overflow-wrap:anywhere;min-width:18rem}
code,.mono{font:13px ui-monospace,Menlo,Consolas,monospace}
a{color:var(--link)}
details{border:1px solid var(--line);border-radius:6px;margin:.6rem 0;padding:.1rem .8rem}
details[open]{padding-bottom:.8rem}
summary{cursor:pointer;padding:.45rem 0;overflow-wrap:anywhere}
input.filter{font:inherit;padding:.3rem .5rem;width:20rem;max-width:100%;margin-bottom:.5rem}
svg.autoprof-flame{display:block;width:100%;height:auto;border:1px solid var(--line);border-radius:6px}
""".strip()

SCRIPT = r"""
(function () {
  "use strict";
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var body = table.tBodies[0], heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      head.querySelector("button").addEventListener("click", function () {
        var text = head.classList.contains("name");
        var down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") !== "descending" : !text;
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var value = function (row) {
          var cell = row.cells[column];
          return text ? cell.textContent : Number(cell.dataset.v);
        };
        Array.prototype.slice.call(body.rows).sort(function (a, b) {
          var left = value(a), right = value(b), order = left < right ? -1 : left > right ? 1 : 0;
          return down ? -order : order;
        }).forEach(function (row) { body.appendChild(row); });
      });
    });
  });
  var field = document.querySelector("input.filter");
  if (field) {
    field.hidden = false;
    field.addEventListener("input", function () {
      var wanted = field.value.toLowerCase();
      document.querySelectorAll("[data-target]").forEach(function (part) {
        part.hidden = part.dataset.target.toLowerCase().indexOf(wanted) < 0;
      });
    });
  }
  document.querySelectorAll("a[href^='#t']").forEach(function (link) {
    link.addEventListener("click", function () {
      var part = document.querySelector(link.getAttribute("href"));
      if (part) part.open = true;
    });
  });
})();
""".strip()
