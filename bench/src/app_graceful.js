// app.js with the shutdown code that the manuals of process managers ask for.
const server = require("./app.js");

server.on("listening", () => process.send && process.send("ready"));
const stop = () => server.close(() => process.exit(0));
for (const event of ["SIGINT", "SIGTERM", "disconnect"]) process.on(event, stop);
process.on("message", (message) => message === "shutdown" && stop());
