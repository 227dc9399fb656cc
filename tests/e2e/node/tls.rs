//! TLS: the session that one worker has begun goes on in another, because all have the ticket keys of the first.

use std::process::Command;

use super::{WORKERS, launch, node, program, stops};
use crate::support::{Mode, Stage, free_port, output_of, tool};

const SERVER: &str = r#"
const file = (name) => fs.readFileSync(__dirname + "/" + name);
require("https").createServer({ key: file("key.pem"), cert: file("cert.pem") }, (request, answer) => answer.end(me())).listen(PORT);
"#;

/// Comes back with its first session until each worker has answered, and says what became of the session there.
const CLIENT: &str = r#"
const https = require("https"), workers = Number(process.argv[3]);
const seen = new Set();
let session, left = 300;
const ask = () => {
  const agent = new https.Agent({ keepAlive: false, maxCachedSessions: 0 });
  const offered = session;
  const options = { port: process.argv[2], host: "127.0.0.1", rejectUnauthorized: false, session, agent, maxVersion: process.argv[4] };
  const request = https.get(options, (answer) => {
    const reused = answer.socket.isSessionReused();
    let body = "";
    answer.on("data", (part) => (body += part)).on("end", () => {
      if (offered) seen.add(JSON.parse(body).worker);
      if (offered && !reused) throw new Error("a new session in worker " + body);
      if (seen.size === workers) return console.log("reused in all");
      if (left-- === 0) throw new Error("only " + [...seen]);
      setTimeout(ask, 1);
    });
  });
  request.on("socket", (socket) => socket.on("session", (fresh) => (session = session || fresh)));
};
ask();
"#;

#[test]
fn a_session_goes_on_in_every_worker() {
    let (Some(node), Some(openssl), stage) = (node(), tool("openssl"), Stage::new()) else { return };
    let (key, cert) = (stage.path("key.pem"), stage.path("cert.pem"));
    let words =
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", &key, "-out", &cert];
    assert!(output_of(Command::new(openssl).args(words)).status.success());
    let client = stage.write("client.js", CLIENT);
    for balance in ["spread", "queue", "rr"] {
        let port = free_port();
        let cluster = launch(Mode::Plain, &node, &program(&stage, SERVER), port).set("BALANCE", balance).start();
        cluster.ready(WORKERS);
        for version in ["TLSv1.2", "TLSv1.3"] {
            let words = [&client, &port.to_string(), &WORKERS.to_string(), version];
            let output = output_of(Command::new(&node).args(words));
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(out, "reused in all\n", "{balance}, {version}: {err}\n{}", cluster.story());
        }
        // The successors of all who knew the keys have them too.
        crate::share::reload(&cluster, WORKERS);
        stops(cluster);
    }
}
