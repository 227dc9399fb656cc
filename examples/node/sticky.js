// sticky.js: sessions in the memory of one process, by long polling, as socket.io does before it upgrades: a client that comes
// to another worker is unknown there. CLUSTERINIT_BALANCE=sticky brings each client address to the same worker while it lives.
// GET /connect gives an id; GET /poll?id=ID waits for a text (at most 1 s); GET /send?id=ID&text=TEXT gives it one.
const http = require("http");

const sessions = new Map();
let next = 0;

const routes = {
  "/connect": (_query, tell) => {
    const id = `${process.pid}-${++next}`;
    sessions.set(id, { texts: [], wake: () => {} });
    tell(200, { id, pid: process.pid });
  },
  "/send": (query, tell, session) => {
    session.texts.push(query.get("text"));
    session.wake();
    tell(200, { pid: process.pid });
  },
  "/poll": (_query, tell, session) => {
    const give = () => {
      clearTimeout(timer);
      session.wake = () => {};
      tell(200, { pid: process.pid, texts: session.texts.splice(0) });
    };
    const timer = setTimeout(give, 1000);
    session.wake = give;
    if (session.texts.length) give();
  },
};

http.createServer((request, answer) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  const tell = (status, body) => answer.writeHead(status).end(JSON.stringify(body));
  const session = sessions.get(searchParams.get("id"));
  if (!routes[pathname]) tell(404, { error: "no such route" });
  else if (!session && pathname !== "/connect") tell(400, { error: "Session ID unknown", pid: process.pid });
  else routes[pathname](searchParams, tell, session);
}).listen(Number(process.env.PORT ?? 8000));
