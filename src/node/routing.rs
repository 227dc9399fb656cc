//! What becomes of a message of a program (`process.send`). PURE.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::log4js;

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

#[derive(Default, Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    clusterinit: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    cmd: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    request: Option<&'a RawValue>,
    #[serde(borrow)]
    metrics: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Envelope {
    to: To,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum To {
    Slot(u32),
    Word(String),
}

pub fn route(message: &RawValue) -> Route {
    if message.get().trim() == "\"ready\"" {
        return Route::Ready;
    }
    let fields: Fields<'_> = serde_json::from_str(message.get()).unwrap_or_default();
    if let Some(envelope) = fields.clusterinit {
        return addressed(envelope, fields.data);
    }
    let text = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let (topic, kind, cmd) = (text(fields.topic), text(fields.kind), text(fields.cmd));
    if topic.as_deref() == Some("log4js:message") {
        let line = text(fields.data).and_then(|data| log4js::line(&data));
        return line.map_or_else(|| Route::Unknown(named("topic", "log4js:message")), Route::Log);
    }
    if kind.as_deref() == Some("prom-client:getMetricsRes") {
        let request = fields.request.and_then(|raw| serde_json::from_str(raw.get()).ok());
        if let (Some(request), Some(metrics)) = (request, fields.metrics) {
            return Route::Metrics { request, metrics: metrics.to_owned() };
        }
    }
    let names = [("topic", topic), ("type", kind), ("cmd", cmd)];
    let name = names.into_iter().find_map(|(field, name)| Some(named(field, &name?)));
    Route::Unknown(name.unwrap_or_else(|| "a message without topic, type or cmd".to_owned()))
}

fn addressed(envelope: &RawValue, data: Option<&RawValue>) -> Route {
    let whom = match serde_json::from_str(envelope.get()) {
        Ok(Envelope { to: To::Slot(slot) }) => Whom::Slot(slot),
        Ok(Envelope { to: To::Word(word) }) => match word.as_str() {
            "all" => Whom::All,
            "others" => Whom::Others,
            other => match other.parse() {
                Ok(slot) => Whom::Slot(slot),
                Err(_) => return Route::Nobody(shown(other)),
            },
        },
        Err(_) => return Route::Nobody(shown(envelope.get())),
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
