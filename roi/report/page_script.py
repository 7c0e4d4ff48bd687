"""What the page of the report does when it is clicked: one plain script, each part of which works alone."""

# A click on a header sorts a table: the first click on numbers puts the highest on top, on names it is alphabetical.
SORT = """
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
"""
# Below each table: a cue where columns are cut off, and the table as CSV, intervals in columns of their own.
TOOLS = """
function csvOf(table) {
  var limits = /^\\[(.+), (.+)\\]$/;
  var heads = Array.from(table.tHead.rows[0].cells), rows = Array.from(table.querySelectorAll('tbody tr, tfoot tr'));
  function interval(cell) {
    var small = cell && cell.querySelector('small');
    return small && limits.exec(small.textContent.trim());
  }
  function quoted(text) {
    // A spreadsheet would take such a name for a formula.
    if (/^[=+@\\t-]/.test(text) && isNaN(Number(text))) { text = "'" + text; }
    return '"' + text.replace(/"/g, '""') + '"';
  }
  var wide = heads.map(function (_, n) { return rows.some(function (row) { return interval(row.cells[n]); }); });
  var lines = [[]];
  heads.forEach(function (head, n) {
    var name = head.textContent.trim();
    lines[0].push(quoted(name));
    if (wide[n]) { lines[0].push(quoted(name + ' low'), quoted(name + ' high')); }
  });
  rows.forEach(function (row) {
    var line = [];
    heads.forEach(function (head, n) {
      var cell = row.cells[n], number = head.dataset.kind === 'number';
      line.push(quoted(number ? cell.dataset.v : cell.textContent.trim()));
      var ends = interval(cell);
      if (wide[n]) { line.push(quoted(ends ? ends[1] : ''), quoted(ends ? ends[2] : '')); }
    });
    lines.push(line);
  });
  return lines.map(function (line) { return line.join(','); }).join('\\r\\n') + '\\r\\n';
}
var counted = {};
document.querySelectorAll('.scroll').forEach(function (box) {
  if (box.closest('.case, .try')) { return; }
  var section = box.closest('section'), key = section ? section.id : 'table';
  counted[key] = (counted[key] || 0) + 1;
  var name = key + '-' + counted[key] + '.csv';
  var tools = document.createElement('div'), cue = document.createElement('span');
  var button = document.createElement('button');
  tools.className = 'tools';
  cue.className = 'cue';
  cue.textContent = 'More columns: scroll sideways \\u2192';
  button.type = 'button';
  button.textContent = 'Save as CSV';
  button.setAttribute('aria-label', 'Save as CSV: ' + box.getAttribute('aria-label'));
  button.addEventListener('click', function () {
    var link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob(['\\ufeff' + csvOf(box.querySelector('table'))], {type: 'text/csv'}));
    link.download = name;
    link.click();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
  });
  tools.append(cue, button);
  box.after(tools);
  function look() {
    var left = box.scrollWidth - box.clientWidth - box.scrollLeft;
    cue.hidden = left < 2;
    box.classList.toggle('cut', left >= 2);
  }
  box.addEventListener('scroll', look);
  // Folded tables have a width only once they are opened.
  new ResizeObserver(look).observe(box);
});
"""
# A picture is enlarged in a dialog, which the browser closes on Escape.
ZOOM = """
document.querySelectorAll('.zoom').forEach(function (button) {
  button.addEventListener('click', function () {
    var dialog = document.createElement('dialog'), large = document.createElement('img');
    var text = document.createElement('p'), small = button.querySelector('img');
    large.src = small.src;
    large.alt = text.textContent = small.alt;
    dialog.append(large, text);
    dialog.addEventListener('click', function () { dialog.close(); });
    dialog.addEventListener('close', function () { dialog.remove(); button.focus(); });
    document.body.append(dialog);
    dialog.showModal();
  });
});
"""
FILTER = """
document.querySelectorAll('.filter').forEach(function (filter) {
  var chosen = filter.querySelectorAll('select'), said = filter.querySelector('output');
  var cards = Array.from(filter.closest('section').querySelectorAll('.case'));
  function apply() {
    var shown = 0;
    cards.forEach(function (card) {
      var finding = !chosen[0].value || card.dataset.finding === chosen[0].value;
      var kind = !chosen[1].value || card.dataset.kinds.split(' ').includes(chosen[1].value);
      card.hidden = !(finding && kind);
      shown += !card.hidden;
    });
    filter.closest('section').querySelectorAll('.kind').forEach(function (kind) {
      kind.hidden = !!kind.querySelector('.case') && !kind.querySelector('.case:not([hidden])');
    });
    said.textContent = shown + ' of ' + cards.length + ' cases';
  }
  chosen.forEach(function (select) { select.addEventListener('change', apply); });
  filter.hidden = false;
  apply();
});
"""
# The counts of each step stand in the page: data-counts holds those of sections/thresholds.py.
SLIDER = """
document.querySelectorAll('.try').forEach(function (box) {
  var all = JSON.parse(box.dataset.counts), finding = box.querySelector('select'), slider = box.querySelector('input');
  function put(name, text) { box.querySelector('[data-is=' + name + ']').textContent = text; }
  function share(part, whole) { return whole ? (part / whole).toFixed(3) : 'undefined'; }
  function show() {
    var counts = all[finding.value], n = Number(slider.value);
    var hits = counts.hits[n], called = counts.calls[n], negatives = counts.known - counts.positives;
    var wrong = called - hits, missed = counts.positives - hits;
    put('threshold', String(counts.steps[n]));
    put('sensitivity', share(hits, counts.positives));
    put('specificity', share(negatives - wrong, negatives));
    put('ppv', share(hits, called));
    put('hits', hits);
    put('missed', missed);
    put('wrong', wrong);
    put('left', negatives - wrong);
    slider.setAttribute('aria-valuetext', 'threshold ' + counts.steps[n]);
  }
  function begin() {
    var counts = all[finding.value];
    slider.max = counts.steps.length - 1;
    slider.value = counts.start;
    show();
  }
  finding.addEventListener('change', begin);
  slider.addEventListener('input', show);
  begin();
});
"""
SCRIPT = SORT + TOOLS + ZOOM + FILTER + SLIDER
