// messages.js: workers that talk to each other. In Node's cluster only the primary hears a worker, so every program relays by
// hand, as the primary branch here does; clusterinit relays by itself: {clusterinit: {to: "all" | "others" | SLOT}, data}.
// GET /tell?to=all&text=hello sends; GET / shows what this process has heard, and from whom.
const cluster = require("cluster");
const http = require("http");

if (cluster.isPrimary) {
  const slots = require("os").cpus().map((_cpu, slot) => cluster.fork({ NODE_APP_INSTANCE: slot }));
  slots.forEach((sender, from) => {
    sender.on("message", ({ clusterinit, data }) => {
      const reached = ([, slot]) => ({ all: true, others: slot !== from })[clusterinit.to] ?? slot === clusterinit.to;
      const told = slots.map((worker, slot) => [worker, slot]).filter(reached);
      told.forEach(([worker]) => worker.send({ clusterinit: { from }, data }));
    });
  });
} else {
  const heard = [];
  process.on("message", (message) => heard.push(message));

  http.createServer((request, answer) => {
    const { pathname, searchParams } = new URL(request.url, "http://localhost");
    if (pathname === "/tell") {
      const to = searchParams.get("to");
      process.send({ clusterinit: { to: /^\d+$/.test(to) ? Number(to) : to }, data: searchParams.get("text") });
    }
    answer.setHeader("Connection", "close");
    answer.end(JSON.stringify({ worker: Number(process.env.NODE_APP_INSTANCE), pid: process.pid, heard }));
  }).listen(Number(process.env.PORT ?? 8000));
}
