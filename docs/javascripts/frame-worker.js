// Pages from the disk may not start workers, so the search runs in a hidden frame instead.
"use strict";
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      const load = source => new Promise((done, failed) => {
        const script = this.inner.document.createElement("script");
        Object.assign(script, {src: source, onload: done, onerror: failed});
        this.inner.document.body.append(script);
      });
      this.inner.importScripts = (...sources) =>
        sources.reduce((before, source) => before.then(() => load(source)), Promise.resolve());
      this.inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}));
      this.loaded = load(url);
    }
    postMessage(data) {
      this.loaded.then(() => this.inner.dispatchEvent(new MessageEvent("message", {data})));
    }
    terminate() { this.inner.frameElement.remove(); }
  };
}
