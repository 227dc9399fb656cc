// refork.js: what tutorials call fault tolerance: the primary forks again when a worker has died. GET /crash throws outside of
// any try; GET /exit ends the process in the middle of the answer. Under clusterinit the replacing is clusterinit's.
const cluster = require("cluster");
const http = require("http");

if (cluster.isPrimary) {
  require("os").cpus().forEach(() => cluster.fork());

  cluster.on("exit", (worker, code, signal) => {
    if (!worker.exitedAfterDisconnect) {
      console.log(`Worker ${worker.process.pid} died (${signal || code}), forking again`);
      cluster.fork();
    }
  });
} else {
  http.createServer((request, answer) => {
    if (request.url === "/crash") {
      setImmediate(() => {
        throw new Error("crashed as it was told to");
      });
    } else if (request.url === "/exit") {
      process.exit(1);
    } else {
      answer.end(`${process.pid}\n`);
    }
  }).listen(Number(process.env.PORT ?? 8000));
}
