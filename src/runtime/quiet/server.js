// As server.py, with one thread that answers all connections.
const { createServer } = require('node:http');
const { writeSync } = require('node:fs');
const body = 'x'.repeat(100);
const server = createServer((request, response) => {
  const [, wait, name] = request.url.split('/');
  if (name) writeSync(1, name + '\n');
  setTimeout(() => response.end(body), Number(wait));
});
server.keepAliveTimeout = 60000;
server.listen(0, process.argv[2], 128, () => writeSync(1, server.address().port + '\n'));
