// hello-master.js: the same as the tutorials of ten years show it (isMaster), with the events that they print.
var cluster = require("cluster");
var http = require("http");
var os = require("os");

if (cluster.isMaster) {
  console.log("Master " + process.pid + " sets up " + os.cpus().length + " workers");
  for (var i = 0; i < os.cpus().length; i++) {
    cluster.fork();
  }
  cluster.on("online", function (worker) {
    console.log("Worker " + worker.process.pid + " is online");
  });
  cluster.on("listening", function (worker, address) {
    console.log("Worker " + worker.process.pid + " listens on " + address.port);
  });
} else {
  http.createServer(function (_request, answer) {
    answer.end(process.pid + " says hello, worker " + cluster.worker.id + "\n");
  }).listen(process.env.PORT || 8000);
}
