// plain.js: a server without any shutdown code, as most are. GET /?ms=1500 answers after 1.5 s. A rolling restart and a stop
// fail no request of it.
const http = require("http");

http.createServer((request, answer) => {
  const { searchParams } = new URL(request.url, "http://localhost");
  const body = JSON.stringify({ worker: Number(process.env.NODE_APP_INSTANCE), pid: process.pid });
  setTimeout(() => answer.end(body), Number(searchParams.get("ms") ?? 1));
}).listen(Number(process.env.PORT ?? 8000));
