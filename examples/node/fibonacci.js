// fibonacci.js: the route that burns a CPU: GET /fibonacci?n=30. One process answers nobody else meanwhile; the others do.
const http = require("http");

const fibonacci = (n) => (n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2));

http.createServer((request, answer) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  const number = Number(searchParams.get("n") ?? 30);
  const value = pathname === "/fibonacci" ? fibonacci(number) : null;
  answer.end(JSON.stringify({ worker: Number(process.env.NODE_APP_INSTANCE), pid: process.pid, value }));
}).listen(Number(process.env.PORT ?? 8000));
