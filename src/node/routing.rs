//! What becomes of a message of a program (`process.send`). PURE.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::log4js;
use super::message::{Fields, read};

/// What is shown of a name that a program has made up.
const LONGEST_NAME: usize = 64;

#[derive(Debug)]
pub enum Route {
    /// `process.send('ready')`.
    Ready,
    /// `{clusterinit: {to: ...}, data: ...}`.
    To(Whom, Box<RawValue>),
    /// `clusterinit` is there and says nobody that can be reached.
    Nobody(String),
    /// log4js has no output of its own in a worker: a line for stdout.
    Log(String),
    /// prom-client's answer.
    Metrics { request: u64, metrics: Box<RawValue> },
    /// By its `topic`, `type` or `cmd`.
    Unknown(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    All,
    /// All but the sender.
    Others,
    Slot(u32),
}

/// `{"to": ...}`
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    to: &'a RawValue,
}

pub fn route(message: &RawValue) -> Route {
    if message.get().trim() == "\"ready\"" {
        return Route::Ready;
    }
    let fields = Fields::of(message);
    if let Some(envelope) = fields.clusterinit {
        return addressed(envelope, fields.data);
    }
    let (topic, kind, cmd): (Option<String>, Option<String>, Option<String>) =
        (read(fields.topic), read(fields.kind), read(fields.cmd));
    if topic.as_deref() == Some("log4js:message") {
        let data: Option<String> = read(fields.data);
        let line = data.and_then(|data| log4js::line(&data));
        return line.map_or_else(|| Route::Unknown(named("topic", "log4js:message")), Route::Log);
    }
    if kind.as_deref() == Some("prom-client:getMetricsRes")
        && let (Some(request), Some(metrics)) = (read(fields.request), fields.metrics)
    {
        return Route::Metrics { request, metrics: metrics.to_owned() };
    }
    let names = [("topic", topic), ("type", kind), ("cmd", cmd)];
    let name = names.into_iter().find_map(|(field, name)| Some(named(field, &name?)));
    Route::Unknown(name.unwrap_or_else(|| "a message without topic, type or cmd".to_owned()))
}

fn addressed(envelope: &RawValue, data: Option<&RawValue>) -> Route {
    let to = serde_json::from_str(envelope.get()).ok().map(|Envelope { to }| to);
    let word: Option<String> = read(to);
    let slot = read(to).or_else(|| word.as_deref()?.parse().ok());
    let whom = match (slot, word.as_deref()) {
        (Some(slot), _) => Whom::Slot(slot),
        (None, Some("all")) => Whom::All,
        (None, Some("others")) => Whom::Others,
        (None, Some(other)) => return Route::Nobody(shown(other)),
        (None, None) => return Route::Nobody(shown(envelope.get())),
    };
    // JSON.stringify leaves out what is undefined.
    let data = data.map_or_else(|| RawValue::NULL.to_owned(), RawValue::to_owned);
    Route::To(whom, data)
}

fn named(field: &str, name: &str) -> String {
    format!("{field} {:?}", shown(name))
}

fn shown(text: &str) -> String {
    text.chars().take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routed(text: &str) -> String {
        let message: &RawValue = serde_json::from_str(text).expect("JSON");
        format!("{:?}", route(message))
    }

    #[test]
    fn messages_go_where_they_are_meant_to_go() {
        for (message, goes) in [
            ("\"ready\"", "Ready"),
            (r#"{"clusterinit":{"to":"all"},"data":{"x":1}}"#, r#"To(All, RawValue({"x":1}))"#),
            (r#"{"clusterinit":{"to":"others"},"data":[]}"#, "To(Others, RawValue([]))"),
            (r#"{"clusterinit":{"to":3},"data":"s"}"#, r#"To(Slot(3), RawValue("s"))"#),
            (r#"{"clusterinit":{"to":"3"}}"#, "To(Slot(3), RawValue(null))"),
            (r#"{"clusterinit":{"to":"nobody"},"data":1}"#, r#"Nobody("nobody")"#),
            (r#"{"clusterinit":{"to":-1},"data":1}"#, r#"Nobody("{\"to\":-1}")"#),
            (r#"{"clusterinit":7}"#, r#"Nobody("7")"#),
            (
                r#"{"type":"prom-client:getMetricsRes","requestId":7,"metrics":[[]]}"#,
                "Metrics { request: 7, metrics: RawValue([[]]) }",
            ),
            (r#"{"type":"prom-client:getMetricsRes","requestId":"x"}"#, r#"Unknown("type \"prom-client:getMetricsRes\"")"#),
            (r#"{"topic":"log4js:message","data":"nonsense"}"#, r#"Unknown("topic \"log4js:message\"")"#),
            (r#"{"topic":"t","type":"u","cmd":"v"}"#, r#"Unknown("topic \"t\"")"#),
            (r#"{"type":"u","cmd":"v"}"#, r#"Unknown("type \"u\"")"#),
            (r#"{"cmd":"v"}"#, r#"Unknown("cmd \"v\"")"#),
            (r#"{"cmd":{}}"#, r#"Unknown("a message without topic, type or cmd")"#),
            ("\"shutdown\"", r#"Unknown("a message without topic, type or cmd")"#),
            ("17", r#"Unknown("a message without topic, type or cmd")"#),
        ] {
            assert_eq!(routed(message), goes, "{message}");
        }
        assert!(routed(&format!("{{\"topic\":\"{}\"}}", "é".repeat(10_000))).len() < 200, "a name is short in the log");
    }

    proptest! {
        #[test]
        fn any_fields_are_routed(field in "(clusterinit|data|topic|type|cmd|requestId|metrics)", value in "(null|1|-1|\"z\"|\\[\\[\\]\\]|\\{\\}|\\{\"to\":\\[\\[\\]\\]\\})") {
            drop(routed(&format!("{{\"{field}\":{value}}}")));
        }
    }
}
