// Runs in each worker before its program, and costs nothing until the worker is drained. It keeps quiet: what a version of Node lacks
// is done without.
import cluster from 'node:cluster';
import { isMainThread } from 'node:worker_threads';
// Children of the worker are none of ours.
const ours = (word) => word.startsWith('--import=data:text/javascript,') && word.includes('NODE%5FCLUSTERINIT');
if (isMainThread) {
  process.env.NODE_OPTIONS = (process.env.NODE_OPTIONS || '').split(' ').filter((word) => !ours(word)).join(' ');
  if (!process.env.NODE_OPTIONS) delete process.env.NODE_OPTIONS;
}
if (isMainThread && cluster.isWorker && process.channel) {
  // As if there was no channel: a program that has nothing to do ends. One that waits for messages does not.
  // (Node counts who listens to its end and to messages; cluster itself does both.)
  const own = process.listenerCount('disconnect') + process.listenerCount('message');
  for (let count = 0; count < own; count += 1) process.channel.unrefCounted?.();
  // Who listens to them by way of the worker counts as well.
  const counts = (name) => name === 'message' || name === 'disconnect';
  cluster.worker.on('newListener', (name) => counts(name) && process.channel?.refCounted?.());
  cluster.worker.on('removeListener', (name) => counts(name) && process.channel?.unrefCounted?.());
  // Who waits to be told what to listen on has something to do.
  const ask = cluster._getServer;
  cluster._getServer = function (server, options, done) {
    process.channel?.refCounted?.();
    return ask.call(this, server, options, (...answer) => {
      process.channel?.unrefCounted?.();
      return done(...answer);
    });
  };
  const say = (message) => process.connected && process.send({ cmd: 'NODE_CLUSTERINIT', ...message }, () => {});
  let draining = false;
  const drain = async () => {
    draining = true;
    const handles = process.eventNames().filter((name) => typeof name === 'string' && name.startsWith('SIG'));
    say({ act: 'draining', handles });
    // A program that ends its servers on a signal ends with them, though it listens to messages.
    for (const name of handles) process.prependOnceListener(name, () => process.channel?.unref());
    const { ServerResponse } = await import('node:http');
    const { channel } = await import('node:diagnostics_channel');
    // Clients that go on with a connection would hold the worker: this is the last answer on it.
    const last = (response) => {
      if (!response.headersSent) response.setHeader('Connection', 'close');
    };
    channel('http.server.request.start').subscribe(({ response }) => last(response));
    const { writeHead } = ServerResponse.prototype;
    ServerResponse.prototype.writeHead = function (...all) {
      last(this);
      return writeHead.apply(this, all);
    };
  };
  process.on('internalMessage', (message) => {
    if (!message || message.cmd !== 'NODE_CLUSTERINIT') return;
    if (message.act === 'drain' && !draining) drain();
    // Node does this by itself since 19.
    if (message.act === 'close') {
      for (const server of process._getActiveHandles()) if (server.closeIdleConnections) server.closeIdleConnections();
    }
  });
  say({ act: 'preloaded', script: (process.argv[1] || '').split('/').pop(), major: parseInt(process.versions.node, 10) });
}
