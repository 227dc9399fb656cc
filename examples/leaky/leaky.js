// leaky.js: a Node server on PORT that keeps LEAK_KIB (default 64) of each request, and LEAK_MIB_PER_SECOND (default 0) besides.
// Buffers, which --max-old-space-size does not limit.
const http = require("http");

const kib = Number(process.env.LEAK_KIB ?? 64);
const perSecond = Number(process.env.LEAK_MIB_PER_SECOND ?? 0);
const kept = [];
const keep = (bytes) => bytes > 0 && kept.push(Buffer.alloc(bytes, 1));
const body = `{"worker":${process.env.CLUSTERINIT_WORKER_ID ?? "null"},"pid":${process.pid}}\n`;

if (perSecond) setInterval(() => keep((perSecond * 1048576) / 10), 100);
http.createServer((_request, answer) => {
  keep(kib * 1024);
  answer.end(body);
}).listen(Number(process.env.PORT ?? 8080));
