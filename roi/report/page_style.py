"""How the page of the report looks and behaves: its style sheet, and the script that sorts its tables."""

# A page is opened from a disk or sent by mail: nothing is loaded, ever.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

CSS = """
:root { --ink:#1d2733; --soft:#5b6672; --line:#d9dee4; --wash:#f5f7f9; --blue:#0b5a94; color-scheme:light }
* { box-sizing:border-box }
html { -webkit-text-size-adjust:100% }
body {
  margin:0 auto; max-width:1100px; padding:1.5rem 1.25rem 4rem; color:var(--ink); background:#fff;
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  overflow-wrap:anywhere;
}
h1,h2,h3 { font-family:Georgia,"Times New Roman",serif; font-weight:600; line-height:1.25 }
h1 { font-size:1.9rem; margin:.4rem 0 }
h2 { font-size:1.35rem; margin:2.6rem 0 .6rem; padding-top:.9rem; border-top:1px solid var(--line) }
h3 { font-size:1.05rem; margin:1.6rem 0 .4rem }
p { margin:.5rem 0; max-width:54rem }
a { color:var(--blue) }
.note { color:var(--soft); font-size:.875rem }
nav { font-size:.9rem; margin:.8rem 0 1.2rem }
nav a { margin-right:1rem; display:inline-block; padding:.15rem 0 }
.banner {
  border-left:5px solid #c62828; background:#fdecea; color:#7f1313; padding:.8rem 1rem; margin:1rem 0;
  font-weight:600;
}
.caution { border-left:5px solid #b26a00; background:#fff7e8; padding:.7rem 1rem; margin:1rem 0 }
.honest { border-left:5px solid #2e7d5b; background:#eef7f2; padding:.7rem 1rem; margin:1rem 0 }
.missing {
  border-left:3px solid var(--line); background:var(--wash); padding:.6rem .9rem; color:var(--soft);
  max-width:none;
}
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:.75rem; margin:1.2rem 0 }
.card { border:1px solid var(--line); border-radius:6px; padding:.7rem .9rem }
.card span { display:block; font-size:.8rem; color:var(--soft) }
.card b { font-size:1.5rem; font-weight:600; font-variant-numeric:tabular-nums }
.scroll { overflow-x:auto; margin:.8rem 0 }
.scroll:focus { outline:2px solid var(--blue) }
table {
  border-collapse:collapse; font-size:.875rem; font-variant-numeric:tabular-nums; min-width:100%;
  overflow-wrap:normal;
}
th,td {
  padding:.32rem .65rem; text-align:right; border-bottom:1px solid var(--line); white-space:nowrap;
  vertical-align:baseline;
}
th:first-child,td:first-child,th.text,td.text { text-align:left }
th:first-child,td:first-child { position:sticky; left:0; background:#fff }
thead th { border-bottom:2px solid #9aa5b1; font-weight:600; vertical-align:bottom }
tfoot td { font-weight:600; border-top:2px solid #9aa5b1 }
tr.published td,tr.published td:first-child { color:var(--soft); background:var(--wash) }
table.wide td small { display:block }
table.wide thead th,table.wide th button { white-space:normal }
table.wide td:first-child { min-width:8rem }
td small { color:var(--soft); font-weight:400; margin-left:.3em }
td.undefined { color:var(--soft); font-style:italic }
td.wrap { white-space:normal; min-width:16rem; overflow-wrap:anywhere }
th button { all:unset; cursor:pointer; white-space:nowrap }
th button:focus-visible { outline:2px solid var(--blue) }
th button::after { content:"\\2195"; color:#a7b0ba; margin-left:.25em }
th[aria-sort=ascending] button::after { content:"\\2191"; color:var(--blue) }
th[aria-sort=descending] button::after { content:"\\2193"; color:var(--blue) }
.figures {
  display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr)); gap:1rem;
  align-items:start; margin:.8rem 0;
}
figure { margin:0 }
figure img { width:100%; max-width:520px; height:auto; display:block }
.cases { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr)); gap:1rem }
.case { border:1px solid var(--line); border-radius:6px; padding:.6rem; break-inside:avoid }
.pictures { display:grid; grid-template-columns:1fr 1fr; gap:.3rem }
.pictures img { width:100%; height:auto; display:block; background:#000 }
.case table { font-size:.8rem }
.case th,.case td { padding:.15rem .3rem }
.case td:first-child { white-space:normal }
.case p { margin:.35rem 0; font-size:.85rem }
.studies {
  display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr)); gap:1rem;
  align-items:start;
}
.views { display:grid; grid-template-columns:repeat(auto-fit,minmax(105px,1fr)); gap:.5rem }
.view { font-size:.78rem; line-height:1.35 }
.view img { width:100%; max-width:256px; height:auto; display:block; background:#000 }
.view p { margin:.25rem 0 }
.bar { position:relative; height:.6rem; max-width:256px; background:var(--wash); border:1px solid var(--line) }
.bar::after { content:""; position:absolute; left:50%; top:-2px; bottom:-2px; border-left:1px solid var(--soft) }
.bar i { position:absolute; top:0; bottom:0; background:var(--blue) }
.bar i.less { background:#b26a00 }
details { margin:.8rem 0 }
summary { cursor:pointer; color:var(--blue) }
code { font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; white-space:pre-wrap }
@media(max-width:480px) {
  body { padding:1rem .8rem 3rem }
  h1 { font-size:1.5rem }
  .cards,.views { grid-template-columns:1fr 1fr }
  .card b { font-size:1.25rem }
  th:first-child,td:first-child {
    white-space:normal; min-width:6.8rem; max-width:9.5rem; overflow-wrap:break-word;
  }
  th,td { padding:.3rem .45rem }
}
@media print {
  body { max-width:none; padding:0; font-size:10.5pt }
  nav { display:none }
  .scroll { overflow:visible }
  table { font-size:8pt }
  th,td { padding:.2rem .35rem; white-space:normal }
  .studies { grid-template-columns:1fr 1fr }
  figure,.case,tr { break-inside:avoid }
  h2,h3 { break-after:avoid }
  th button::after { content:"" }
  .figures { grid-template-columns:1fr 1fr }
  .cases { grid-template-columns:1fr 1fr }
  * { print-color-adjust:exact; -webkit-print-color-adjust:exact }
}
"""

# A click on a header sorts a table: the first click on numbers puts the highest on top, on names it is alphabetical.
SCRIPT = """
document.querySelectorAll('table.sortable').forEach(function (table) {
  table.querySelectorAll('thead th').forEach(function (head, column) {
    head.querySelector('button').addEventListener('click', function () {
      var numeric = head.dataset.kind === 'number';
      var sorted = head.getAttribute('aria-sort');
      var up = sorted ? sorted !== 'ascending' : !numeric;
      var body = table.tBodies[0], rows = Array.from(body.rows);
      function key(row) { return row.cells[column].dataset.v; }
      rows.sort(function (a, b) {
        var x = key(a), y = key(b);
        // What has no value stays last whichever way is asked for.
        if (x === '' || y === '') { return (x === '') - (y === ''); }
        var order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return up ? order : -order;
      });
      table.querySelectorAll('th').forEach(function (other) { other.removeAttribute('aria-sort'); });
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
});
// Paper cannot be unfolded.
window.addEventListener('beforeprint', function () {
  document.querySelectorAll('details').forEach(function (d) { d.open = true; });
});
"""
