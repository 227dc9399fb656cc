// A Node server as people write them: no cluster code, no shutdown code. It answers "pid N" after DELAY ms.
// LOG: the number in ?id=N of each request is noted there when its handler begins.
const fs = require("fs");
const http = require("http");

const delay = Number(process.env.DELAY);
const log = process.env.LOG && fs.openSync(process.env.LOG, "a");
const body = `pid ${process.pid}\n`;

module.exports = http.createServer((request, answer) => {
  if (log) fs.writeSync(log, request.url.split("=")[1] + "\n");
  if (delay) setTimeout(() => answer.end(body), delay);
  else answer.end(body);
});
module.exports.listen(Number(process.env.PORT));
