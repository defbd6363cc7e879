// Asks for this page again, past the browser's own cache, and shows what the proxy says of the answer.
(function () {
  'use strict';
  var button = document.querySelector('[data-ask]');
  var list = document.querySelector('.asked');
  if (button && list) {
    button.hidden = false;
    button.addEventListener('click', function () {
      var start = performance.now();
      button.disabled = true;
      fetch(location.href, { cache: 'no-store', credentials: 'same-origin' }).then(function (answer) {
        return answer.text().then(function () {
          var ms = Math.round(performance.now() - start);
          var age = answer.headers.get('age');
          say(answer.status + ' in ' + ms + ' ms. Cache-Status: ' + (answer.headers.get('cache-status') || 'none')
            + (age === null ? '' : '. Age: ' + age));
        });
      }).catch(function (error) { say('No answer: ' + error.message); }).then(function () {
        button.disabled = false;
        button.focus();
      });
    });
  }
  function say(text) {
    var item = document.createElement('li');
    item.textContent = text;
    list.prepend(item);
    while (list.children.length > 8) { list.lastChild.remove(); }
  }

  // The events page: one line per tick.
  var ticks = document.querySelector('.ticks');
  if (ticks) {
    var source = new EventSource(ticks.dataset.from);
    source.addEventListener('tick', function (event) {
      var item = document.createElement('li');
      item.textContent = event.data;
      ticks.prepend(item);
      while (ticks.children.length > 10) { ticks.lastChild.remove(); }
    });
  }
})();
