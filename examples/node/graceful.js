// graceful.js: a server with a handler of SIGTERM, as guides for containers recommend: it is sent the signal, and ends itself.
const http = require("http");

const server = http.createServer((request, answer) => {
  const { searchParams } = new URL(request.url, "http://localhost");
  const body = JSON.stringify({ worker: Number(process.env.NODE_APP_INSTANCE), pid: process.pid });
  setTimeout(() => answer.end(body), Number(searchParams.get("ms") ?? 1));
});
server.listen(Number(process.env.PORT ?? 8000));

process.on("SIGTERM", () => {
  console.log(`${process.pid}: SIGTERM, closing`);
  server.close(() => {
    console.log(`${process.pid}: closed`);
    process.exit(0);
  });
  server.closeIdleConnections?.();
});
