// Move the slider of pictures, and reload the page of a running training every minute.
document.querySelectorAll(".slider").forEach(function (box) {
  var range = box.querySelector("input"), figures = box.querySelectorAll("figure");
  function show() {
    figures.forEach(function (figure, i) { figure.hidden = i !== range.max - range.value; });
  }
  box.classList.add("moving");
  range.addEventListener("input", show);
  show();
});
(function () {
  var box = document.querySelector(".state.running");
  if (!box) return;
  var written = Number(box.dataset.written);
  var late = Number(box.dataset.late), ago = box.querySelector("span");
  var key = "shown in " + location.pathname, ranges = document.querySelectorAll(".slider input");
  var folds = document.querySelectorAll("details");
  function captions(range) {
    var all = range.closest(".slider").querySelectorAll("figcaption");
    return Array.from(all, function (caption) { return caption.textContent; }).reverse();
  }
  function age() {
    var sec = Math.max(Date.now() / 1000 - written, 0);
    var unit = [[86400, "days"], [3600, "hours"], [60, "minutes"], [0, "seconds"]]
      .find(function (unit) { return sec >= 2 * unit[0]; });
    box.classList.toggle("late", late > 0 && sec > late);
    ago.textContent = ", " + Math.round(sec / (unit[0] || 1)) + " " + unit[1] + " ago";
    if (box.matches(".late")) box.querySelector("b").textContent = "killed or hanging; running";
  }
  try {
    var stored = JSON.parse(sessionStorage.getItem(key)) || { ranges: [], folds: [] };
    ranges.forEach(function (range, i) {
      var place = captions(range).indexOf(stored.ranges[i]);
      if (place >= 0) { range.value = place; range.dispatchEvent(new Event("input")); }
    });
    folds.forEach(function (fold, i) { if (stored.folds[i]) fold.open = true; });
  } catch (error) { }
  window.addEventListener("pagehide", function () {
    try {
      sessionStorage.setItem(key, JSON.stringify({
        ranges: Array.from(ranges, function (range) {
          return range.value === range.max ? null : captions(range)[range.value];
        }),
        folds: Array.from(folds, function (fold) { return fold.open; })
      }));
    } catch (error) { }
  });
  age();
  setInterval(age, 5000);
  setInterval(function () { if (!document.hidden) location.reload(); }, 60000);
})();
