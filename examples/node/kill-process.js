// kill-process.js: the route with which tutorials show that the others go on: GET /kill-process ends the process that answers,
// GET /kill-process?hard does it from outside, and ?disconnect as a worker leaves a cluster: it finishes first.
const cluster = require("cluster");
const http = require("http");

if (cluster.isPrimary) {
  require("os").cpus().forEach(() => cluster.fork());
  cluster.on("exit", () => cluster.fork());
} else {
  http.createServer((request, answer) => {
    const [path, how] = request.url.split("?");
    answer.setHeader("Connection", "close");
    if (path !== "/kill-process") {
      return answer.end(`${process.pid}\n`);
    }
    answer.end(`${process.pid} goes\n`, () => {
      if (how === "hard") process.kill(process.pid);
      else if (how === "disconnect") cluster.worker.disconnect();
      else process.exit();
    });
  }).listen(Number(process.env.PORT ?? 8000));
}
