// A server without any shutdown code, as most are; each worker runs it, and all share the port.
const http = require("http");

const worker = Number(process.env.CLUSTERINIT_WORKER_ID ?? 0);

http.createServer((_request, answer) => {
  answer.setHeader("content-type", "application/json");
  answer.end(`${JSON.stringify({ worker, pid: process.pid })}\n`);
}).listen(Number(process.env.PORT ?? 8080));
