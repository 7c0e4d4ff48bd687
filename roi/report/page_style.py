"""How the page of the report looks, by day, by night and on paper: its style sheet."""

# A page is opened from a disk or sent by mail: nothing is loaded, ever.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

COLOURS = """
:root {
  --ink:#1d2733; --soft:#5b6672; --line:#d9dee4; --edge:#9aa5b1; --wash:#f5f7f9; --paper:#fff; --blue:#0b5a94;
  --orange:#b26a00; --alarm:#fdecea; --alarm-ink:#7f1313; --caution:#fff7e8; --honest:#eef7f2; --green:#2e7d5b;
  color-scheme:light dark;
}
@media screen and (prefers-color-scheme:dark) { :root {
  --ink:#e3e8ee; --soft:#a5b0bc; --line:#323c47; --edge:#66727f; --wash:#1c232b; --paper:#12171d; --blue:#6cb8f0;
  --orange:#e69f00; --alarm:#3b1717; --alarm-ink:#ffb9b1; --caution:#33270f; --honest:#12291f; --green:#4cae86;
} }
"""
TEXT = """
* { box-sizing:border-box }
[hidden] { display:none !important }
html { -webkit-text-size-adjust:100%; background:var(--paper) }
body {
  margin:0 auto; max-width:1200px; padding:1.5rem 1.25rem 4rem; color:var(--ink); background:var(--paper);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  overflow-wrap:anywhere;
}
h1,h2,h3 { font-family:Georgia,"Times New Roman",serif; font-weight:600; line-height:1.25 }
h1 { font-size:1.9rem; margin:.4rem 0 }
h2 { font-size:1.35rem; margin:2.6rem 0 .6rem; padding-top:.9rem; border-top:1px solid var(--line) }
h3 { font-size:1.05rem; margin:1.6rem 0 .4rem }
p { margin:.5rem 0; max-width:54rem }
a { color:var(--blue) }
.lead { font-size:1.1rem }
.note { color:var(--soft); font-size:.875rem }
nav { font-size:.9rem; margin:.8rem 0 1.2rem }
nav a { margin-right:1rem; display:inline-block; padding:.15rem 0 }
.banner {
  border-left:5px solid #c62828; background:var(--alarm); color:var(--alarm-ink); padding:.8rem 1rem; margin:1rem 0;
  font-weight:600;
}
.caution { border-left:5px solid var(--orange); background:var(--caution); padding:.7rem 1rem; margin:1rem 0 }
.honest { border-left:5px solid var(--green); background:var(--honest); padding:.7rem 1rem; margin:1rem 0 }
.missing {
  border-left:3px solid var(--line); background:var(--wash); padding:.6rem .9rem; color:var(--soft);
  max-width:none;
}
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(200px,1fr)); gap:.75rem; margin:1.2rem 0 }
.card { border:1px solid var(--line); border-radius:6px; padding:.7rem .9rem }
.card>span { display:block; font-size:.8rem; color:var(--soft) }
.card b { font-size:1.5rem; font-weight:600; font-variant-numeric:tabular-nums }
details { margin:.8rem 0 }
summary { cursor:pointer; color:var(--blue) }
code { font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; white-space:pre-wrap }
button,select { font:inherit; color:inherit }
:focus-visible { outline:2px solid var(--blue); outline-offset:1px }
"""
# The explanation of a word stands at the foot of the window: there it is cut off at no width.
WORDS = """
.term {
  display:inline-block; width:1.15em; height:1.15em; margin-left:.35em; border:1px solid var(--edge); border-radius:50%;
  font:600 .7rem/1.1em system-ui,sans-serif; text-align:center; color:var(--blue); cursor:help; vertical-align:.1em;
}
.term>span { display:none }
.term:hover>span,.term:focus>span {
  display:block; position:fixed; z-index:3; left:50%; bottom:3.2rem; transform:translateX(-50%);
  width:min(32rem,92vw); padding:.7rem .9rem; border-radius:6px; background:var(--ink); color:var(--paper);
  font:400 .875rem/1.45 system-ui,sans-serif; text-align:left;
}
.words { position:fixed; z-index:2; right:.8rem; bottom:.6rem; margin:0; font-size:.85rem; max-width:min(34rem,94vw) }
.words summary {
  float:right; list-style:none; padding:.25rem .8rem; border:1px solid var(--edge); border-radius:1rem;
  background:var(--paper);
}
.words summary::-webkit-details-marker { display:none }
.words dl {
  clear:both; max-height:60vh; overflow-y:auto; margin:0 0 2.4rem; padding:.8rem 1rem; border:1px solid var(--edge);
  border-radius:6px; background:var(--paper);
}
.words[open] summary { position:absolute; right:0; bottom:0 }
.words dt { font-weight:600 }
.words dd { margin:0 0 .5rem }
"""
TABLES = """
.scroll { overflow-x:auto; margin:.8rem 0 0 }
.tools { display:flex; justify-content:flex-end; gap:1rem; margin:.2rem 0 .8rem; font-size:.8rem; color:var(--soft) }
.tools button { all:unset; cursor:pointer; color:var(--blue) }
.tools button:focus-visible { outline:2px solid var(--blue) }
.cue { margin-right:auto; font-weight:600; color:var(--orange) }
.cut { box-shadow:inset -14px 0 10px -12px var(--edge) }
table {
  border-collapse:collapse; font-size:.875rem; font-variant-numeric:tabular-nums; min-width:100%;
  overflow-wrap:normal;
}
th,td {
  padding:.32rem .65rem; text-align:right; border-bottom:1px solid var(--line); white-space:nowrap;
  vertical-align:baseline;
}
th:first-child,td:first-child,th.text,td.text { text-align:left }
th:first-child,td:first-child { position:sticky; left:0; background:var(--paper) }
thead th { border-bottom:2px solid var(--edge); font-weight:600; vertical-align:bottom }
tfoot td { font-weight:600; border-top:2px solid var(--edge) }
tr.published td,tr.published td:first-child { color:var(--soft); background:var(--wash) }
table.wide { font-size:.82rem }
table.wide th,table.wide td { padding:.3rem .4rem }
table.wide td small { display:block; margin:0; font-size:.7rem }
table.wide thead th,table.wide th button { white-space:normal }
table.wide td:first-child { min-width:7rem }
td small { color:var(--soft); font-weight:400; margin-left:.3em }
td.undefined { color:var(--soft); font-style:italic }
td.wrap { white-space:normal; min-width:16rem; overflow-wrap:anywhere }
th button { all:unset; cursor:pointer; white-space:nowrap }
th button:focus-visible { outline:2px solid var(--blue) }
th button::after { content:"\\2195"; color:var(--edge); margin-left:.25em }
th[aria-sort=ascending] button::after { content:"\\2191"; color:var(--blue) }
th[aria-sort=descending] button::after { content:"\\2193"; color:var(--blue) }
"""
PICTURES = """
.figures {
  display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr)); gap:1rem;
  align-items:start; margin:.8rem 0;
}
.figures.small { grid-template-columns:repeat(auto-fill,minmax(min(46%,190px),1fr)); gap:.4rem }
figure { margin:0 }
figure img { width:100%; max-width:520px; height:auto; display:block }
.cases { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,360px),1fr)); gap:1rem }
.cases.four { grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr)) }
.case { border:1px solid var(--line); border-radius:6px; padding:.6rem; break-inside:avoid }
.case h3 { margin:.1rem 0 .4rem }
.pictures { display:grid; grid-template-columns:1fr 1fr; gap:.3rem }
.four .pictures { grid-template-columns:1fr }
.zoom { all:unset; display:block; cursor:zoom-in }
.zoom:focus-visible { outline:3px solid var(--blue) }
.pictures img,.view img { width:100%; height:auto; display:block; background:#000 }
.case table { font-size:.8rem }
.case th,.case td { padding:.15rem .3rem }
.case td:first-child { white-space:normal }
.case p { margin:.35rem 0; font-size:.85rem }
dialog { border:0; padding:.6rem; max-width:96vw; max-height:96vh; background:var(--paper); color:var(--ink) }
dialog::backdrop { background:#000b }
dialog img { display:block; width:min(90vw,82vh,800px); height:auto; cursor:zoom-out }
dialog p { max-width:min(90vw,82vh,800px); font-size:.85rem }
.filter { display:flex; flex-wrap:wrap; gap:.4rem 1rem; align-items:center; margin:.8rem 0; font-size:.9rem }
.filter select,.try select {
  max-width:100%; padding:.2rem .4rem; border:1px solid var(--edge); border-radius:4px; background:var(--paper);
}
.try { border:1px solid var(--line); border-radius:6px; padding:.7rem .9rem; margin:1rem 0 }
.try input { width:100%; accent-color:var(--blue) }
.try .cards { margin:.6rem 0; grid-template-columns:repeat(auto-fit,minmax(120px,1fr)) }
.try table { min-width:0 }
.studies {
  display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr)); gap:1rem;
  align-items:start;
}
@media (min-width:820px) { .studies .case:has(.view:nth-child(4)) { grid-column:span 2 } }
.views { display:grid; grid-template-columns:repeat(auto-fit,minmax(105px,1fr)); gap:.5rem }
.view { font-size:.78rem; line-height:1.35; max-width:256px }
.view p { margin:.25rem 0 }
.bar { position:relative; height:.6rem; background:var(--wash); border:1px solid var(--line) }
.bar::after { content:""; position:absolute; left:50%; top:-2px; bottom:-2px; border-left:1px solid var(--soft) }
.bar i { position:absolute; top:0; bottom:0; background:var(--blue) }
.bar i.less { background:var(--orange) }
"""
# On paper: what is folded stays folded, and the gallery is a sheet of contacts.
ELSEWHERE = """
@media(max-width:480px) {
  body { padding:1rem .8rem 3rem }
  h1 { font-size:1.5rem }
  .views { grid-template-columns:1fr 1fr }
  .cards { grid-template-columns:1fr 1fr }
  .card b { font-size:1.25rem }
  .four .pictures { grid-template-columns:1fr 1fr }
  th:first-child,td:first-child {
    white-space:normal; min-width:6.8rem; max-width:9.5rem; overflow-wrap:break-word;
  }
  th,td { padding:.3rem .45rem }
}
@media print {
  @page { margin:11mm }
  html { font-size:11px }
  body { max-width:none; padding:0; font-size:8.5pt; line-height:1.35 }
  h1 { font-size:16pt }
  h2 { font-size:12pt; margin:.9rem 0 .3rem; padding-top:.4rem }
  h3 { font-size:9.5pt; margin:.6rem 0 .2rem }
  p,.scroll,.cards,.figures,details { margin:.25rem 0 }
  .banner,.caution,.honest,.missing,.card { padding:.25rem .5rem }
  nav,.words,.term,.tools,.filter,.try input,.case table,th button::after,details:not([open]) { display:none }
  .scroll { overflow:visible }
  .cut { box-shadow:none }
  table,table.wide { font-size:6.6pt; line-height:1.2 }
  th,td,table.wide th,table.wide td { padding:.08rem .25rem; white-space:normal }
  table td:not(:first-child,.wrap,.text),table.wide td:not(:first-child,.wrap,.text) { white-space:nowrap }
  table.wide td small { display:inline; font-size:5.2pt; margin-left:.3em; white-space:nowrap }
  th:first-child,td:first-child { position:static }
  .card b { font-size:11pt }
  .cards { grid-template-columns:repeat(6,1fr); gap:.3rem }
  figure,.case,tr { break-inside:avoid }
  h2,h3 { break-after:avoid }
  .figures { grid-template-columns:repeat(3,1fr); gap:.4rem }
  .figures.small { grid-template-columns:repeat(7,1fr); gap:.15rem }
  .cases { grid-template-columns:repeat(4,1fr); gap:.3rem }
  .cases.four { grid-template-columns:repeat(4,1fr) }
  .case { padding:.25rem }
  .case p { font-size:6.2pt; line-height:1.2; margin:.1rem 0 }
  .studies { grid-template-columns:repeat(3,1fr); gap:.3rem }
  .views { grid-template-columns:repeat(auto-fit,minmax(60px,1fr)); gap:.2rem }
  .view { font-size:6.2pt; line-height:1.2 }
  tfoot { display:table-row-group }
  * { print-color-adjust:exact; -webkit-print-color-adjust:exact }
}
"""
CSS = COLOURS + TEXT + WORDS + TABLES + PICTURES + ELSEWHERE
