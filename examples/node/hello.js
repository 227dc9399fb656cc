// hello.js: the cluster program of Node's own documentation, as it is there (Node 16 and later: isPrimary).
// Under clusterinit its worker branch runs, and nobody forks.
const cluster = require("cluster");
const http = require("http");
const workers = require("os").cpus().length;

if (cluster.isPrimary) {
  console.log(`Primary ${process.pid} is running`);

  for (let i = 0; i < workers; i++) {
    cluster.fork();
  }

  cluster.on("exit", (worker) => {
    console.log(`worker ${worker.process.pid} died`);
  });
} else {
  http.createServer((_request, answer) => {
    answer.writeHead(200);
    answer.end(`${process.pid} says hello, worker ${cluster.worker.id}\n`);
  }).listen(Number(process.env.PORT ?? 8000));

  console.log(`Worker ${process.pid} started`);
}
