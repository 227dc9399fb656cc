//! One line of a channel, read and written. PURE.
//!
//! What a worker says is read as far as it concerns us and never trusted: sizes are bounded by the line, and what is not understood is
//! an [`Incoming`] of its own. Values that are only handed on (TLS `data`, what programs send each other) stay the text that they were.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What a worker says.
#[derive(Debug)]
pub enum Incoming {
    Online,
    /// `listen()`: what is it to listen on?
    Query {
        seq: i64,
        query: Box<Query>,
    },
    /// It listens.
    Listening,
    /// One of its servers has closed.
    Close {
        key: String,
    },
    /// The program has called `worker.disconnect()` or `worker.kill()`: to be answered, or it waits for ever.
    Leaving {
        seq: i64,
    },
    /// Answer to a handed connection.
    Accepted {
        ack: i64,
        accepted: bool,
    },
    HandleAck,
    HandleNack,
    /// A descriptor comes with this line: to be acknowledged, or all later messages wait behind it.
    Handle,
    /// The preload runs in this worker, before this script, in this major version of Node.
    Preloaded {
        script: String,
        major: u32,
    },
    /// The preload has set the worker to draining; `handles`: signals that the program handles by itself.
    Draining {
        handles: Vec<String>,
    },
    /// Something else of Node's own.
    Internal(String),
    /// A message of the program, as it was written.
    User(Box<RawValue>),
    /// No JSON, or not of the form that Node gives it.
    Garbage,
}

/// `queryServer`. A field that is not what it should be is taken for absent: Node itself says `"backlog":false`.
#[derive(Debug, Default)]
pub struct Query {
    pub index: i64,
    /// A literal address, a path, or none.
    pub address: Option<String>,
    pub port: Option<i64>,
    pub address_type: Option<AddressType>,
    /// `listen({fd})`.
    pub fd: Option<i32>,
    pub flags: Option<u32>,
    pub backlog: Option<i32>,
    /// TLS servers put their session-ticket keys here.
    pub data: Option<Box<RawValue>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressType {
    /// 4, 6, or -1 for a path.
    Number(i64),
    /// `udp4`, `udp6`.
    Name(String),
}

/// The fields by which messages are told apart, each still a text.
#[derive(Default, Deserialize)]
pub(super) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) cmd: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) clusterinit: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) topic: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    pub(super) request: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) metrics: Option<&'a RawValue>,
    #[serde(borrow)]
    act: Option<&'a RawValue>,
    #[serde(borrow)]
    seq: Option<&'a RawValue>,
    #[serde(borrow)]
    ack: Option<&'a RawValue>,
    #[serde(borrow)]
    accepted: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    handles: Option<&'a RawValue>,
    #[serde(borrow)]
    script: Option<&'a RawValue>,
    #[serde(borrow)]
    major: Option<&'a RawValue>,
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    #[serde(borrow)]
    address: Option<&'a RawValue>,
    #[serde(borrow)]
    port: Option<&'a RawValue>,
    #[serde(borrow, rename = "addressType")]
    address_type: Option<&'a RawValue>,
    #[serde(borrow)]
    fd: Option<&'a RawValue>,
    #[serde(borrow)]
    flags: Option<&'a RawValue>,
    #[serde(borrow)]
    backlog: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    /// None of them where it is no object.
    pub(super) fn of(message: &'a RawValue) -> Self {
        serde_json::from_str(message.get()).unwrap_or_default()
    }

    fn query(&self) -> Query {
        Query {
            index: read(self.index).unwrap_or_default(),
            address: read(self.address),
            port: read(self.port),
            address_type: read(self.address_type)
                .map(AddressType::Number)
                .or_else(|| read(self.address_type).map(AddressType::Name)),
            fd: read(self.fd),
            flags: read(self.flags),
            backlog: read(self.backlog),
            data: self.data.map(RawValue::to_owned),
        }
    }
}

pub(super) fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

/// Reads one line.
pub fn parse(line: &[u8]) -> Incoming {
    let Ok(text) = str::from_utf8(line) else { return Incoming::Garbage };
    let Ok(whole) = serde_json::from_str::<&RawValue>(text) else { return Incoming::Garbage };
    let fields = Fields::of(whole);
    let cmd: Option<String> = read(fields.cmd);
    // As Node has it: longer than the prefix.
    match cmd.filter(|cmd| cmd.starts_with("NODE_") && cmd.len() > 5) {
        None => Incoming::User(whole.to_owned()),
        Some(cmd) => internal(&cmd, &fields).unwrap_or(Incoming::Internal(cmd)),
    }
}

fn internal(cmd: &str, fields: &Fields<'_>) -> Option<Incoming> {
    let act: Option<String> = read(fields.act);
    Some(match (cmd, act.as_deref()) {
        ("NODE_HANDLE_ACK", _) => Incoming::HandleAck,
        ("NODE_HANDLE_NACK", _) => Incoming::HandleNack,
        ("NODE_HANDLE", _) => Incoming::Handle,
        ("NODE_CLUSTERINIT", Some("preloaded")) => {
            Incoming::Preloaded { script: read(fields.script).unwrap_or_default(), major: read(fields.major).unwrap_or_default() }
        }
        ("NODE_CLUSTERINIT", Some("draining")) => Incoming::Draining { handles: read(fields.handles).unwrap_or_default() },
        ("NODE_CLUSTER", None) => Incoming::Accepted { ack: read(fields.ack)?, accepted: read(fields.accepted)? },
        ("NODE_CLUSTER", Some("online")) => Incoming::Online,
        ("NODE_CLUSTER", Some("listening")) => Incoming::Listening,
        ("NODE_CLUSTER", Some("close")) => Incoming::Close { key: read(fields.key)? },
        ("NODE_CLUSTER", Some("exitedAfterDisconnect")) => Incoming::Leaving { seq: read(fields.seq)? },
        ("NODE_CLUSTER", Some("queryServer")) => Incoming::Query { seq: read(fields.seq)?, query: Box::new(fields.query()) },
        _ => return None,
    })
}

// === what we say ===

/// No descriptor must come with it: the worker says that it has none, as soon as its loop comes round.
pub const HEARTBEAT: &str = "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":null}\n";
pub const HANDLE_ACK: &str = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
pub const HANDLE_NACK: &str = "{\"cmd\":\"NODE_HANDLE_NACK\"}\n";
pub const DRAIN: &str = "{\"cmd\":\"NODE_CLUSTERINIT\",\"act\":\"drain\"}\n";
pub const CLOSE_IDLE: &str = "{\"cmd\":\"NODE_CLUSTERINIT\",\"act\":\"close\"}\n";
/// PM2's `shutdown_with_message`.
pub const SHUTDOWN: &str = "\"shutdown\"\n";

pub fn disconnect(seq: u64) -> String {
    format!("{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"disconnect\",\"seq\":{seq}}}\n")
}

/// Answer to [`Incoming::Leaving`].
pub fn acknowledge(ack: i64, seq: u64) -> String {
    format!("{{\"cmd\":\"NODE_CLUSTER\",\"ack\":{ack},\"seq\":{seq}}}\n")
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Native {
    Stream,
    Datagram,
}

/// Answers a query: how to listen.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    pub ack: i64,
    pub seq: u64,
    pub key: &'a str,
    pub data: Option<&'a RawValue>,
}

impl Reply<'_> {
    /// On the descriptor that comes with this line.
    pub fn shared(&self, native: Native) -> String {
        let name = if native == Native::Stream { "net.Native" } else { "dgram.Native" };
        format!("{{\"cmd\":\"NODE_HANDLE\",\"type\":\"{name}\",\"msg\":{}}}\n", self.text("0", ""))
    }

    /// On connections that will be handed over; `sockname`: where, unless it is a path.
    pub fn rotated(&self, sockname: Option<std::net::SocketAddr>) -> String {
        let sockname = sockname.map(|at| {
            let family = if at.is_ipv4() { "IPv4" } else { "IPv6" };
            format!(",\"sockname\":{{\"address\":\"{}\",\"family\":\"{family}\",\"port\":{}}}", at.ip(), at.port())
        });
        self.text("null", &sockname.unwrap_or_default()) + "\n"
    }

    /// Not at all; `errno` as libuv has it: negative.
    pub fn refused(&self, errno: i32) -> String {
        let refused = Self { data: None, ..*self };
        refused.text(&errno.to_string(), "") + "\n"
    }

    fn text(&self, errno: &str, more: &str) -> String {
        let Self { ack, seq, key, data } = self;
        let data = data.map_or("null", RawValue::get);
        let key = quoted(key);
        format!("{{\"cmd\":\"NODE_CLUSTER\",\"ack\":{ack},\"errno\":{errno},\"key\":{key},\"data\":{data},\"seq\":{seq}{more}}}")
    }
}

/// A connection for this worker, which comes with this line.
pub fn new_connection(key: &str, seq: u64) -> String {
    let key = quoted(key);
    format!(
        "{{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"newconn\",\"key\":{key},\"seq\":{seq}}}}}\n"
    )
}

/// What the program of another worker has sent.
pub fn from_worker(slot: u32, data: &RawValue) -> String {
    format!("{{\"clusterinit\":{{\"from\":{slot}}},\"data\":{}}}\n", one_line(data.get()))
}

/// What a person has sent, as it is. `None`: no JSON, or a message that Node takes for its own.
pub fn from_person(text: &str) -> Option<String> {
    match parse(text.trim().as_bytes()) {
        Incoming::User(value) => Some(one_line(value.get()) + "\n"),
        _ => None,
    }
}

/// A line of ours has one end: blanks between tokens may be line breaks, inside of strings they cannot be.
fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn said(line: &str) -> String {
        format!("{:?}", parse(line.as_bytes()))
    }

    #[test]
    fn what_node_says_is_read() {
        let query = r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":{"a":[1]},"address":null,"port":8000,"addressType":4,"backlog":0,"seq":1}"#;
        let Incoming::Query { seq: 1, query } = parse(query.as_bytes()) else { panic!("{}", said(query)) };
        assert_eq!((query.address.as_deref(), query.port, query.backlog), (None, Some(8000), Some(0)));
        assert_eq!(query.address_type, Some(AddressType::Number(4)));
        assert_eq!(query.data.as_deref().map(RawValue::get), Some(r#"{"a":[1]}"#));
        let odd = r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"address":"127.0.0.1","port":0,"addressType":4,"flags":0,"backlog":false,"seq":1}"#;
        let Incoming::Query { query, .. } = parse(odd.as_bytes()) else { panic!("{}", said(odd)) };
        assert_eq!((query.address.as_deref(), query.port, query.backlog), (Some("127.0.0.1"), Some(0), None));
        let udp = r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":"0.0.0.0","port":53,"addressType":"udp4","fd":-1,"seq":4}"#;
        let Incoming::Query { query, .. } = parse(udp.as_bytes()) else { panic!("{}", said(udp)) };
        assert_eq!(query.address_type, Some(AddressType::Name("udp4".to_owned())));
        for (line, meaning) in [
            (r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#, "Online"),
            (r#"{"cmd":"NODE_CLUSTER","act":"listening","index":0,"port":8000,"seq":2}"#, "Listening"),
            (r#"{"cmd":"NODE_CLUSTER","act":"close","key":"null:8000:4:null","seq":4}"#, "Close { key: \"null:8000:4:null\" }"),
            (r#"{"cmd":"NODE_CLUSTER","ack":2,"accepted":true,"seq":3}"#, "Accepted { ack: 2, accepted: true }"),
            (r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":7}"#, "Leaving { seq: 7 }"),
            (r#"{"cmd":"NODE_HANDLE_ACK"}"#, "HandleAck"),
            (r#"{"cmd":"NODE_HANDLE_NACK"}"#, "HandleNack"),
            (r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"x":1},"key":"k"}"#, "Handle"),
            (r#"{"cmd":"NODE_DEBUG_ENABLED"}"#, "Internal(\"NODE_DEBUG_ENABLED\")"),
            (r#"{"cmd":"NODE_CLUSTER","act":"queryServer","seq":{}}"#, "Internal(\"NODE_CLUSTER\")"),
            (r#"{"cmd":"NODE_CLUSTERINIT","act":"draining","handles":["SIGTERM"]}"#, "Draining { handles: [\"SIGTERM\"] }"),
            (r#"{"cmd":"NODE_CLUSTERINIT","act":"draining","handles":7}"#, "Draining { handles: [] }"),
            (r#"{"cmd":"NODE_"}"#, r#"User(RawValue({"cmd":"NODE_"}))"#),
            (r#"{"cmd":7}"#, r#"User(RawValue({"cmd":7}))"#),
            (r#" "ready" "#, r#"User(RawValue("ready"))"#),
            ("17", "User(RawValue(17))"),
            ("{", "Garbage"),
            ("", "Garbage"),
        ] {
            assert_eq!(said(line), meaning, "{line}");
        }
        assert_eq!(format!("{:?}", parse(b"\"\xff\"")), "Garbage");
    }

    #[test]
    fn what_we_say_is_what_node_s_own_primary_says() {
        let data = serde_json::value::to_raw_value(&[1]).expect("JSON");
        let reply = Reply { ack: 1, seq: 0, key: "null:8000:4:", data: Some(&data) };
        let json = |line: &str| -> Value { serde_json::from_str(line.strip_suffix('\n').expect("one line")).expect("JSON") };
        let common =
            serde_json::json!({"cmd": "NODE_CLUSTER", "ack": 1, "errno": 0, "key": "null:8000:4:", "data": [1], "seq": 0});
        let shared = json(&reply.shared(Native::Stream));
        assert_eq!(shared, serde_json::json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": common}));
        assert_eq!(json(&reply.shared(Native::Datagram))["type"], "dgram.Native");
        let rotated = json(&reply.rotated(Some("[::]:8000".parse().expect("an address"))));
        assert_eq!(rotated["errno"], Value::Null);
        assert_eq!(rotated["sockname"], serde_json::json!({"address": "::", "family": "IPv6", "port": 8000}));
        let refused = json(&reply.refused(-98));
        assert_eq!((&refused["errno"], &refused["data"]), (&serde_json::json!(-98), &Value::Null));
        for line in [HEARTBEAT, HANDLE_ACK, HANDLE_NACK, DRAIN, CLOSE_IDLE, SHUTDOWN, &disconnect(3), &acknowledge(4, 5)] {
            json(line);
        }
        assert_eq!(json(&new_connection("a\"b", 2))["msg"]["key"], "a\"b");
    }

    #[test]
    fn a_person_cannot_say_what_node_takes_for_its_own() {
        assert_eq!(from_person(" {\"a\":\n 1} ").as_deref(), Some("{\"a\":  1}\n"));
        for refused in ["{\"cmd\":\"NODE_CLUSTER\",\"act\":\"disconnect\"}", "nonsense", ""] {
            assert_eq!(from_person(refused), None, "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
        }

        #[test]
        fn almost_messages_are_read(
            cmd in "(NODE_(CLUSTER(INIT)?|HANDLE(_N?ACK)?)?|x)",
            act in "(online|queryServer|close|draining|exitedAfterDisconnect|y)?",
            value in "(null|1|-1|1e99|\"z\"|\\[\\[\\]\\]|\\{\\}|true)",
        ) {
            let fields = ["seq", "ack", "accepted", "key", "handles", "port", "index", "address", "addressType", "data", "flags"];
            for field in fields {
                let line = format!("{{\"cmd\":\"{cmd}\",\"act\":\"{act}\",\"{field}\":{value}}}");
                drop(parse(line.as_bytes()));
            }
        }

        #[test]
        fn a_key_survives(key in any::<String>()) {
            let line = new_connection(&key, 1);
            let value: Value = serde_json::from_str(&line).expect("JSON");
            prop_assert_eq!(value["msg"]["key"].as_str(), Some(key.as_str()));
            prop_assert_eq!(line.matches('\n').count(), 1);
        }
    }
}
