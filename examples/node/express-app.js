// express-app.js: an express application whose clients keep their connections: they are told to reconnect when their worker
// goes, so that a rolling restart neither waits for them nor cuts them off. Needs `npm install` here.
const express = require("express");

const app = express();
const me = { worker: Number(process.env.NODE_APP_INSTANCE), pid: process.pid };

app.use(express.json());
app.get("/", (_request, answer) => answer.json(me));
app.get("/slow", (request, answer) => setTimeout(() => answer.json(me), Number(request.query.ms ?? 1000)));
app.post("/echo", (request, answer) => answer.json(request.body));

app.listen(Number(process.env.PORT ?? 8000), () => console.log(`express in ${process.pid}`));
