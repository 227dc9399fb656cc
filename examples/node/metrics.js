// metrics.js: prom-client with its registry for clusters: each worker counts for itself, the primary asks all and adds up.
// Here the primary serves the sum on METRICS_PORT. Needs `npm install` here.
const cluster = require("cluster");
const http = require("http");
const { AggregatorRegistry, Counter } = require("prom-client");

const registry = new AggregatorRegistry();

if (cluster.isPrimary) {
  require("os").cpus().forEach(() => cluster.fork());
  http.createServer(async (_request, answer) => answer.end(await registry.clusterMetrics()))
    .listen(Number(process.env.METRICS_PORT ?? 9100));
} else {
  const hits = new Counter({ name: "hits_total", help: "requests that were answered" });
  http.createServer((_request, answer) => {
    hits.inc();
    answer.end(`${process.pid}\n`);
  }).listen(Number(process.env.PORT ?? 8000));
}
