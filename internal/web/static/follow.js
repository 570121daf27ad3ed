"use strict";
// Each event is the formation as it is now, as a part of this page; the browser connects again by itself.
const changes = new EventSource("changes");
changes.onmessage = (event) => {
  document.getElementById("formation").innerHTML = event.data;
  document.getElementById("link").hidden = true;
};
changes.onerror = () => {
  document.getElementById("link").hidden = false;
};
