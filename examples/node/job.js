// job.js STATUS: not a server. It does its work and ends, with status 0 or the given one: it runs once, and its status is that
// of the container.
setTimeout(() => {
  console.log("the work is done");
  process.exitCode = Number(process.argv[2] ?? 0);
}, 100);
