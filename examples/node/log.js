// log.js: log4js, whose workers write nothing by themselves: they send their lines to the primary, and clusterinit writes them
// to its stdout. Needs `npm install` here.
const cluster = require("cluster");
const http = require("http");
const log4js = require("log4js");

log4js.configure({
  appenders: { out: { type: "stdout", layout: { type: "basic" } } },
  categories: { default: { appenders: ["out"], level: "info" } },
});
const log = log4js.getLogger("web");

if (cluster.isPrimary) {
  require("os").cpus().forEach(() => cluster.fork());
} else {
  http.createServer((request, answer) => {
    log.info("asked for %s by worker %d", request.url, process.pid);
    answer.end(`${process.pid}\n`);
  }).listen(Number(process.env.PORT ?? 8000));
}
