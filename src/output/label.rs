//! Whose line it is: `[worker 3] ` in front, or `"worker":3` as the first member of a JSON object.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// What the lines of one worker get.
#[derive(Debug)]
pub struct Label {
    text: String,
    /// Up to the member that follows.
    member: String,
}

impl Label {
    pub fn new(slot: u32) -> Self {
        Self { text: format!("[worker {slot}] "), member: format!("{{\"worker\":{slot},") }
    }

    /// What goes out for a line: two parts that follow each other.
    pub fn put_on<'a>(&'a self, line: &'a [u8]) -> [&'a [u8]; 2] {
        let plain = [self.text.as_bytes(), line];
        let Some((b'{', inside)) = line.split_first() else { return plain };
        if !line.trim_ascii_end().ends_with(b"}") {
            return plain;
        }
        match serde_json::from_slice::<Object>(line) {
            Ok(Object { named: true, .. }) => [b"", line],
            Ok(Object { empty: true, .. }) => [self.member.trim_end_matches(',').as_bytes(), inside],
            Ok(Object { .. }) => [self.member.as_bytes(), inside],
            Err(_) => plain,
        }
    }
}

/// What has to be known of a JSON object.
struct Object {
    empty: bool,
    /// It has a member `worker`.
    named: bool,
}

/// Whether a key is `worker`, however it is written.
struct IsWorker(bool);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Object, A::Error> {
                let mut object = Object { empty: true, named: false };
                while let Some(IsWorker(named)) = members.next_key()? {
                    object = Object { empty: false, named: object.named || named };
                    members.next_value::<IgnoredAny>()?;
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for IsWorker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;

        impl Visitor<'_> for Key {
            type Value = IsWorker;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<IsWorker, E> {
                Ok(IsWorker(key == "worker"))
            }
        }

        deserializer.deserialize_str(Key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn put_on(line: &[u8]) -> Vec<u8> {
        Label::new(7).put_on(line).concat()
    }

    #[test]
    fn what_is_no_object_gets_the_prefix() {
        let lines: [&[u8]; 15] = [
            b"",
            b" ",
            b"hello",
            b"\xff\0\r",
            b"{",
            b"{}}",
            b"{not json}",
            b"{\"a\":1",
            b"{\"a\":1}, {\"b\":2}",
            b"{\"a\":1}{\"b\":2}",
            b" {\"a\":1}",
            b"[{\"a\":1}]",
            b"{'a':1}",
            b"{\"a\":\"\x01\"}",
            b"null",
        ];
        for line in lines {
            assert_eq!(put_on(line), [b"[worker 7] ", line].concat(), "{line:?}");
        }
    }

    #[test]
    fn an_object_gets_a_member() {
        let table = [
            (r"{}", r#"{"worker":7}"#),
            ("{ } \r", "{\"worker\":7 } \r"),
            (r#"{"a":1}"#, r#"{"worker":7,"a":1}"#),
            (r#"{ "a" : [{"worker":2}] }"#, r#"{"worker":7, "a" : [{"worker":2}] }"#),
            ("{\"a\":1}\r", "{\"worker\":7,\"a\":1}\r"),
            (r#"{"worker":"x"}"#, r#"{"worker":"x"}"#),
            (r#"{"a":1,"worker":2}"#, r#"{"a":1,"worker":2}"#),
            ("{\"w\\u006frker\":2}", "{\"w\\u006frker\":2}"),
        ];
        for (line, expected) in table {
            assert_eq!(String::from_utf8_lossy(&put_on(line.as_bytes())), expected);
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(put_on(deep.as_bytes()).starts_with(b"{\"worker\":7,"), "no stack is used up");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key(), inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![".{0,6}", Just("worker".to_owned())]
    }

    proptest! {
        #[test]
        fn an_object_stays_one_with_all_that_it_had(members in proptest::collection::vec((key(), json()), 0..5)) {
            let object: Map<String, Value> = members.into_iter().collect();
            let line = Value::Object(object.clone()).to_string();
            let shown: Map<String, Value> = serde_json::from_slice(&put_on(line.as_bytes())).expect("an object");
            let mut expected = object;
            expected.entry("worker").or_insert(7.into());
            prop_assert_eq!(shown, expected);
        }

        #[test]
        fn anything_ends_as_it_was(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let shown = put_on(&line);
            prop_assert!(shown.ends_with(line.get(1..).unwrap_or_default()));
        }
    }
}
