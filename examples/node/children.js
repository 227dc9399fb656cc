// children.js: all four ways of child_process inside a worker: GET /exec, /execFile, /spawn, /fork. What /spawn and /fork start
// stays and has children of its own, some of them in a session of their own: a stop ends all of it.
const { exec, execFile, fork, spawn } = require("child_process");
const http = require("http");

if (process.argv[2] === "child") {
  // A fork has a channel of its own to the worker that forked it, and is no worker of the cluster.
  process.on("message", (number) => process.send({ square: number * number, isWorker: require("cluster").isWorker }));
  setInterval(() => {}, 1000);
} else {
  const routes = {
    "/exec": (tell) => exec("echo $((6 * 7))", (error, stdout) => tell(error ?? stdout.trim())),
    "/execFile": (tell) => execFile("uname", ["-s"], (error, stdout) => tell(error ?? stdout.trim())),
    "/spawn": (tell) => {
      const tree = spawn("sh", ["-c", "sleep 1000 & setsid sleep 1000 & echo up; wait"]);
      tree.stdout.once("data", (text) => tell(`${tree.pid} is ${String(text).trim()}`));
    },
    "/fork": (tell) => {
      const child = fork(__filename, ["child"]);
      child.once("message", tell);
      child.send(12);
    },
  };

  http.createServer((request, answer) => {
    const route = routes[request.url] ?? ((tell) => tell(null));
    route((told) => answer.end(JSON.stringify({ pid: process.pid, told })));
  }).listen(Number(process.env.PORT ?? 8000));
}
