//! Real, unmodified servers: all copies serve one port, as whoever runs the tests and as a user without any right.

use std::net::{Ipv6Addr, SocketAddr, TcpStream};

use super::{Who, addresses, all_serve, borrowed, is_shared, local, reload};
use crate::support::{Mode, Stage, example, free_port, free_ports, go, has_pid1, machine, tool};

/// A command, and what to see of it.
struct Server {
    command: Vec<String>,
    settings: Vec<(&'static str, String)>,
    /// Where it answers, and as `/workers` names it.
    at: Vec<(SocketAddr, String)>,
    /// The path whose answer tells the pid.
    path: &'static str,
    /// It shares by itself: not to be seen in `listeners`.
    by_itself: bool,
}

impl Server {
    fn new(command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Self { command, settings: Vec::new(), at: Vec::new(), path: "/", by_itself: false }
    }

    fn at(mut self, address: SocketAddr, listener: &str) -> Self {
        self.at.push((address, listener.to_owned()));
        self
    }

    fn at_local(self, port: u16) -> Self {
        self.at(local(port), &format!("127.0.0.1:{port}"))
    }

    fn dual_stack(self, port: u16) -> Self {
        self.at(local(port), &format!("[::]:{port}")).at((Ipv6Addr::LOCALHOST, port).into(), &format!("[::]:{port}"))
    }
}

pub(super) fn source(name: &str) -> String {
    format!("{}/tests/e2e/share/servers/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// As PID 1: what a server such as nginx leaves behind when a test fails is gone with the namespace.
fn serves_everywhere(make: impl Fn(&Stage) -> Option<Server>) {
    if !has_pid1() {
        return;
    }
    let _alone = machine();
    for who in Who::all() {
        for workers in [2, 4] {
            let stage = Stage::new();
            let Some(server) = make(&stage) else { return };
            serves(who, workers, &stage, &server);
        }
    }
}

fn serves(who: Who, workers: usize, stage: &Stage, server: &Server) {
    let mut launch = who.launch(Mode::Pid1, stage, &borrowed(&server.command)).set("WORKERS", workers).set("GRACE", "60s");
    for (name, value) in &server.settings {
        launch = launch.env(name, value);
    }
    let cluster = launch.start();
    let first = server.at[0].0;
    cluster.until(&format!("{workers} workers are ready"), |cluster| {
        let ready = cluster.pids_in("ready").len();
        assert!(ready == 0 || TcpStream::connect(first).is_ok(), "ready, and nobody listens\n{}", cluster.story());
        ready == workers
    });
    is_shared(&cluster);
    for (address, listener) in &server.at {
        all_serve(&cluster, *address, server.path, workers);
        let shown = addresses(&cluster);
        assert!(server.by_itself || shown.contains(listener), "{listener} is not in {shown:?}\n{}", cluster.story());
    }
    reload(&cluster, workers);
    for (address, _) in &server.at {
        all_serve(&cluster, *address, server.path, workers);
    }
    assert_eq!(cluster.get("/readyz").0, 200);
    let (code, _, err) = cluster.stop();
    assert_eq!(code, 0, "{who:?}, {workers} workers\n{err}");
}

/// The standard library's own: it serves files, and `/proc/self` is another folder in each process.
#[test]
fn python_http_server() {
    serves_everywhere(|_| {
        let port = free_port();
        let python = tool("python3")?;
        let words = [&python, "-m", "http.server", "--directory", "/proc/self", "--bind", "127.0.0.1", &port.to_string()];
        Some(Server { path: "/stat", ..Server::new(&words).at_local(port) })
    });
}

#[test]
fn python_with_threads() {
    serves_everywhere(|stage| {
        let port = free_port();
        Some(Server::new(&[&tool("python3")?, &stage.copy(&source("threads.py")), &port.to_string()]).at_local(port))
    });
}

#[test]
fn go_static() {
    serves_everywhere(|stage| {
        let port = free_port();
        Some(Server::new(&[&stage.copy(&go()?), &format!("127.0.0.1:{port}")]).at_local(port))
    });
}

#[test]
fn go_static_dual_stack_and_graceful() {
    serves_everywhere(|stage| {
        let port = free_port();
        Some(Server::new(&[&stage.copy(&go()?), &format!(":{port}"), "graceful"]).dual_stack(port))
    });
}

#[test]
fn rust_std() {
    serves_everywhere(|stage| {
        let port = free_port();
        let server = Server::new(&[&stage.copy(&example("server"))]).dual_stack(port);
        Some(Server { settings: vec![("PORT", port.to_string())], ..server })
    });
}

/// By seccomp alone: Node's own protocol is not spoken.
#[test]
fn node() {
    serves_everywhere(|stage| {
        let port = free_port();
        let server = Server::new(&[&tool("node")?, &stage.copy(&source("server.js")), &port.to_string()]).dual_stack(port);
        Some(Server { settings: vec![("CLUSTERINIT_NODE_IPC", "off".to_owned())], ..server })
    });
}

/// Each of our workers is a master with two workers of its own.
#[test]
fn gunicorn_with_its_own_workers() {
    serves_everywhere(|stage| {
        let port = free_port();
        stage.write(
            "app.py",
            "import os\n\ndef app(environ, start_response):\n    body = b'%d\\n' % os.getpid()\n    \
             start_response('200 OK', [('Content-Length', str(len(body)))])\n    return [body]\n",
        );
        let (program, folder, address) = (tool("gunicorn")?, stage.path(""), format!("127.0.0.1:{port}"));
        let words = [&program, "--workers", "2", "--bind", &address, "--chdir", &folder, "--log-level", "warning", "app:app"];
        let settings = vec![("PYTHONDONTWRITEBYTECODE", "1".to_owned())];
        Some(Server { settings, ..Server::new(&words).at_local(port) })
    });
}

/// nginx with these `listen` lines, in one process or as a master with two workers.
fn nginx(stage: &Stage, own_workers: u32, listens: &[String]) -> Option<Server> {
    let processes = if own_workers == 0 { "master_process off;".to_owned() } else { format!("worker_processes {own_workers};") };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", stage.path(kind)))
        .concat();
    let listens = listens.iter().map(|listen| format!("listen {listen};")).collect::<Vec<_>>().join("\n");
    let configuration = stage.write(
        "nginx.conf",
        &format!(
            "daemon off;\n{processes}\npid {};\nerror_log stderr warn;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
             server {{\n{listens}\nlocation / {{ return 200 \"$pid\\n\"; }}\n}}\n}}\n",
            stage.path("nginx.pid")
        ),
    );
    Some(Server::new(&[&tool("nginx")?, "-e", "stderr", "-p", &stage.path(""), "-c", &configuration]))
}

#[test]
fn nginx_in_one_process() {
    serves_everywhere(|stage| {
        let port = free_port();
        Some(nginx(stage, 0, &[format!("127.0.0.1:{port}")])?.at_local(port))
    });
}

#[test]
fn nginx_as_a_master_with_workers() {
    serves_everywhere(|stage| {
        let port = free_port();
        Some(nginx(stage, 2, &[format!("127.0.0.1:{port}")])?.at_local(port))
    });
}

#[test]
fn nginx_on_two_ports() {
    serves_everywhere(|stage| {
        let port = free_ports(2);
        let listens = [format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1)];
        Some(nginx(stage, 2, &listens)?.at_local(port).at_local(port + 1))
    });
}

#[test]
fn nginx_on_v4_and_v6() {
    serves_everywhere(|stage| {
        let port = free_port();
        let server = nginx(stage, 0, &[port.to_string(), format!("[::]:{port} ipv6only=on")])?;
        let server = server.at(local(port), &format!("0.0.0.0:{port}"));
        Some(server.at((Ipv6Addr::LOCALHOST, port).into(), &format!("[::]:{port}")))
    });
}

/// It sets `SO_REUSEPORT` itself: left alone, and shared by the kernel.
#[test]
fn nginx_with_reuseport() {
    serves_everywhere(|stage| {
        let port = free_port();
        let server = nginx(stage, 2, &[format!("127.0.0.1:{port} reuseport")])?.at_local(port);
        Some(Server { by_itself: true, ..server })
    });
}
