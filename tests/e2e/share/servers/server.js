// server.js PORT [graceful] [wait=4] [log=FILE]: a Node server, as people write them: dual stack, and no shutdown code unless told.
// wait: ms that an answer takes. log: the number in ?id=N of each request is noted when its handler begins.
const fs = require("fs");
const http = require("http");

const [port, ...words] = process.argv.slice(2);
const options = Object.fromEntries(words.map((word) => word.split("=")));
const wait = Number(options.wait || 0);
const log = options.log && fs.openSync(options.log, "a", 0o666);
const body = `{"worker":${process.env.CLUSTERINIT_WORKER_ID || "null"},"pid":${process.pid}}\n`;

const server = http.createServer((request, answer) => {
  if (log) fs.writeSync(log, request.url.split("=")[1] + "\n");
  if (wait) setTimeout(() => answer.end(body), wait);
  else answer.end(body);
});
server.listen(Number(port));
if ("graceful" in options) {
  process.on("SIGTERM", () => {
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
}
