// Node's own cluster as tutorials have it: two workers of the script that is named, a new one for each that dies, and at
// SIGUSR2 or SIGHUP a rolling restart: fork, wait until it listens, disconnect the old one, wait until that has ended.
const cluster = require("cluster");

cluster.setupPrimary({ exec: process.argv[2] });
for (let n = 0; n < 2; n++) cluster.fork();
cluster.on("exit", (worker) => {
  if (!worker.exitedAfterDisconnect) cluster.fork();
});

const roll = () => {
  const old = Object.values(cluster.workers);
  const next = () => {
    const worker = old.shift();
    if (!worker) return;
    worker.once("exit", next);
    cluster.fork().once("listening", () => worker.disconnect());
  };
  next();
};
process.on("SIGUSR2", roll);
process.on("SIGHUP", roll);
