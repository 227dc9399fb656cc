//! A log event of log4js as the line that its basic layout writes. PURE.
//!
//! log4js in a worker writes nothing: it sends `{"topic": "log4js:message", "data": "..."}` to its primary and leaves the writing
//! to it. `data` is the event as `flatted` writes it: an array, the event first. In it each text, object and array is replaced by
//! its place in the array. So a circle can be written, and also few bytes that unfold without end: depth, steps and length are
//! bounded.
//!
//! The differences from log4js: the time is UTC and says so by its `Z` (log4js prints local time without a zone), objects are
//! compact JSON, and the program's own levels need no configuration here.

use std::slice;

use serde_json::{Map, Value};

/// Objects in objects below this are `"[...]"`.
const DEEPEST: usize = 16;

/// Values looked at for one line.
const MOST_STEPS: u32 = 100_000;

/// Bytes of a line; what unfolds to more is cut off. No message is longer.
const LONGEST: usize = 1 << 20;

/// `[2026-11-30T12:00:00.000Z] [INFO] category - text`, without the final newline. `None` where it is not such an event.
pub fn line(data: &str) -> Option<String> {
    let cells: Vec<Value> = serde_json::from_str(data).ok()?;
    let event = cells.first()?.as_object()?;
    let at = |object: &Map<String, Value>, key: &str| cells.get(place(object.get(key)?)?);
    let time = at(event, "startTime")?.as_str().filter(|time| is_time(time))?;
    let level = at(at(event, "level")?.as_object()?, "levelStr")?.as_str()?;
    let category = at(event, "categoryName")?.as_str()?;
    let mut line = Line::new(&cells);
    for part in ["[", time, "] [", level, "] ", category, " - "] {
        line.push(part);
    }
    match at(event, "data")? {
        Value::Array(data) => line.message(data),
        // log4js takes `[NaN]` for `NaN`, and so on: `String([NaN])` is the same.
        Value::String(data) => line.push(word_of(data)?),
        _ => return None,
    }
    let text = line.text;
    Some(text.strip_suffix('\n').map(ToOwned::to_owned).unwrap_or(text))
}

/// `2026-11-30T12:00:00.000Z`, and nothing that could be anything else.
fn is_time(text: &str) -> bool {
    (20..=30).contains(&text.len()) && text.ends_with('Z') && text.chars().all(|c| c.is_ascii_digit() || "+-.:TZ".contains(c))
}

/// Where the meant cell is.
fn place(reference: &Value) -> Option<usize> {
    reference.as_str()?.parse().ok()
}

/// What a value in an object or array stands for.
enum Meant<'a> {
    Text(&'a str),
    /// A number, `true`, `null`, `undefined` ...
    Word(String),
    /// With its place, by which a circle is known.
    Tree(usize, &'a Value),
}

/// JSON has none of these: log4js has texts for them.
fn word_of(text: &str) -> Option<&'static str> {
    match text {
        "__LOG4JS_undefined__" => Some("undefined"),
        "__LOG4JS_NaN__" => Some("NaN"),
        "__LOG4JS_Infinity__" => Some("Infinity"),
        "__LOG4JS_-Infinity__" => Some("-Infinity"),
        _ => None,
    }
}

/// A line that grows, up to a bound.
struct Line<'a> {
    cells: &'a [Value],
    text: String,
    steps: u32,
    is_full: bool,
    /// The objects and arrays that we are in.
    path: Vec<usize>,
}

impl<'a> Line<'a> {
    fn new(cells: &'a [Value]) -> Self {
        Self { cells, text: String::new(), steps: 0, is_full: false, path: Vec::new() }
    }

    fn push(&mut self, part: &str) {
        if self.is_full {
            return;
        }
        let room = LONGEST.saturating_sub(self.text.len());
        if part.len() <= room {
            self.text.push_str(part);
            return;
        }
        // A character that does not fit as a whole is left out.
        self.text.extend(part.char_indices().take_while(|(at, c)| at + c.len_utf8() <= room).map(|(_, c)| c));
        self.stop();
    }

    fn stop(&mut self) {
        if !self.is_full {
            self.text.push_str(" ...");
            self.is_full = true;
        }
    }

    fn meant(&self, value: &Value) -> Meant<'a> {
        let undefined = || Meant::Word("undefined".to_owned());
        let place = match value {
            Value::String(_) => place(value),
            Value::Null | Value::Bool(_) | Value::Number(_) => return Meant::Word(value.to_string()),
            // flatted writes none into another.
            Value::Array(_) | Value::Object(_) => None,
        };
        let Some((place, cell)) = place.and_then(|place| Some((place, self.cells.get(place)?))) else { return undefined() };
        match cell {
            Value::String(text) => word_of(text).map_or(Meant::Text(text), |word| Meant::Word(word.to_owned())),
            Value::Array(_) | Value::Object(_) => Meant::Tree(place, cell),
            Value::Null | Value::Bool(_) | Value::Number(_) => Meant::Word(cell.to_string()),
        }
    }

    /// As `util.format(...data)` does: a first text with `%` takes what is behind it, the rest follows.
    fn message(&mut self, data: &[Value]) {
        let mut rest = data.iter();
        if let Some(first) = rest.next() {
            match self.meant(first) {
                Meant::Text(format) if data.len() > 1 => self.fill(format, &mut rest),
                _ => self.show(first),
            }
        }
        for value in rest {
            self.push(" ");
            self.show(value);
            if self.is_full {
                return;
            }
        }
    }

    fn fill(&mut self, format: &str, values: &mut slice::Iter<'_, Value>) {
        let mut left = format;
        while let Some((before, after)) = left.split_once('%') {
            self.push(before);
            let mut behind = after.chars();
            let letter = behind.next();
            let value = if letter.is_some_and(|letter| "sdifjoOc".contains(letter)) { values.next() } else { None };
            match (letter, value) {
                (Some('%') | None, _) => self.push("%"),
                (Some(letter), Some(value)) => self.placeholder(letter, value),
                (Some(letter), None) => {
                    self.push("%");
                    self.push(letter.encode_utf8(&mut [0; 4]));
                }
            }
            left = behind.as_str();
        }
        self.push(left);
    }

    fn placeholder(&mut self, letter: char, value: &Value) {
        match letter {
            'd' | 'f' | 'i' => self.push(&number(&self.meant(value), letter)),
            'j' | 'o' | 'O' => self.json(value),
            // CSS, for browsers.
            'c' => {}
            _ => self.show(value),
        }
    }

    /// A text as it is, an error by its stack, anything else as JSON.
    fn show(&mut self, value: &Value) {
        match self.meant(value) {
            Meant::Text(text) => self.push(text),
            Meant::Tree(place, Value::Object(object)) => match self.stack_of(object) {
                Some(stack) => self.error(place, stack, object),
                None => self.json(value),
            },
            Meant::Word(_) | Meant::Tree(..) => self.json(value),
        }
    }

    /// What log4js makes of an error has both.
    fn stack_of(&self, object: &Map<String, Value>) -> Option<&'a str> {
        object.get("message")?;
        match self.meant(object.get("stack")?) {
            Meant::Text(stack) if !stack.is_empty() => Some(stack),
            _ => None,
        }
    }

    /// Its stack, and behind it what else it has: `code`, `errno` ...
    fn error(&mut self, place: usize, stack: &str, object: &Map<String, Value>) {
        self.push(stack);
        let mut others = object.iter().filter(|(key, _)| *key != "message" && *key != "stack").peekable();
        if others.peek().is_some() {
            self.push(" ");
            self.path.push(place);
            self.object(others);
            self.path.pop();
        }
    }

    fn json(&mut self, value: &Value) {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            self.stop();
        }
        if self.is_full {
            return;
        }
        match self.meant(value) {
            Meant::Text(text) => self.push(&quoted(text)),
            Meant::Word(word) => self.push(&word),
            Meant::Tree(place, _) if self.path.contains(&place) => self.push("\"[Circular]\""),
            Meant::Tree(..) if self.path.len() >= DEEPEST => self.push("\"[...]\""),
            Meant::Tree(place, tree) => {
                self.path.push(place);
                match tree {
                    Value::Array(values) => self.array(values),
                    Value::Object(object) => self.object(object.iter()),
                    _ => {}
                }
                self.path.pop();
            }
        }
    }

    fn array(&mut self, values: &[Value]) {
        self.push("[");
        for (at, value) in values.iter().enumerate() {
            if self.is_full {
                return;
            }
            self.push(if at == 0 { "" } else { "," });
            self.json(value);
        }
        self.push("]");
    }

    fn object<'v>(&mut self, entries: impl Iterator<Item = (&'v String, &'v Value)>) {
        self.push("{");
        for (at, (key, value)) in entries.enumerate() {
            if self.is_full {
                return;
            }
            self.push(if at == 0 { "" } else { "," });
            self.push(&quoted(key));
            self.push(":");
            self.json(value);
        }
        self.push("}");
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// For `%d` as JavaScript's `Number` makes one of it, for `%f` and `%i` as `parseFloat` and `parseInt` do where it is one.
fn number(meant: &Meant<'_>, letter: char) -> String {
    let parsed = |text: &str| text.trim().parse().unwrap_or(f64::NAN);
    let value = match meant {
        // One text may be asked for its number a hundred thousand times.
        Meant::Text(text) if text.len() > 100 => f64::NAN,
        Meant::Text(text) if text.trim().is_empty() && letter == 'd' => 0.0,
        Meant::Text(text) => parsed(text),
        Meant::Word(word) => match word.as_str() {
            "null" | "false" if letter == 'd' => 0.0,
            "true" if letter == 'd' => 1.0,
            word => parsed(word),
        },
        Meant::Tree(..) => f64::NAN,
    };
    match letter {
        'i' if value.is_infinite() => "NaN".to_owned(),
        'i' => value.trunc().to_string(),
        _ => value.to_string().replace("inf", "Infinity"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What log4js 6.9.1 sends from a worker, and below each the line that its basic layout writes, as a JSON text.
    const EVENTS: &str = include_str!("log4js/events.txt");

    /// An event with this data, as flatted writes it: what the data refers to begins at 5.
    fn event(data: &Value, cells: &[Value]) -> String {
        let head = json!({"startTime": "1", "categoryName": "2", "data": "3", "level": "4"});
        let mut all = vec![head, json!("2026-11-30T12:00:00.000Z"), json!("app"), data.clone(), json!({"levelStr": "2"})];
        all.extend_from_slice(cells);
        Value::from(all).to_string()
    }

    /// The text of such an event.
    fn text(data: &Value, cells: &[Value]) -> String {
        let line = line(&event(data, cells)).unwrap();
        line.strip_prefix("[2026-11-30T12:00:00.000Z] [app] app - ").unwrap().to_owned()
    }

    #[test]
    fn it_is_the_line_that_log4js_writes() {
        let lines: Vec<_> = EVENTS.lines().collect();
        assert_eq!(lines.len(), 28);
        for pair in lines.chunks(2) {
            let theirs: String = serde_json::from_str(pair[1]).unwrap();
            let with_zone = theirs.replacen("] [", "Z] [", 1);
            assert_eq!(line(pair[0]).as_deref(), Some(with_zone.strip_suffix('\n').unwrap_or(&with_zone)), "{}", pair[0]);
        }
    }

    #[test]
    fn objects_are_compact_json_and_errors_their_stack() {
        let event = r#"[{"startTime":"1","categoryName":"2","data":"3","level":"4","context":"5","pid":26172,"error":"6",
            "fileName":"7","lineNumber":9,"columnNumber":37,"callStack":"8","className":"9","functionName":"10",
            "functionAlias":"11","callerName":"12","cluster":"13"},"2026-11-30T15:24:58.664Z",
            "http",["14","15"],{"level":10000,"levelStr":"16","colour":"17"},{},
            "__LOG4JS_undefined__","/app/server.js","    at Object.<anonymous> (/app/server.js:9:37)","Object","<anonymous>","",
            "Object.<anonymous>",{"workerId":1,"worker":26172},{"b":1,"a":"18"},"tail","DEBUG","cyan",["19","20","6","21"],"x",
            "__LOG4JS_NaN__","__LOG4JS_-Infinity__"]"#;
        let expected = r#"[2026-11-30T15:24:58.664Z] [DEBUG] http - {"a":["x",NaN,undefined,-Infinity],"b":1} tail"#;
        assert_eq!(line(event).as_deref(), Some(expected));

        let error = r#"[{"startTime":"1","categoryName":"2","data":"3","level":"4","context":"5","pid":26172,"error":"6",
            "cluster":"7"},"2026-11-30T15:24:58.664Z","default",
            ["8","9"],{"level":40000,"levelStr":"10","colour":"11"},{},
            {"message":"12","stack":"13","code":"14"},{"workerId":1,"worker":26172},"failed:",
            {"message":"12","stack":"13","code":"14"},"ERROR","red","bad thing",
            "TypeError: bad thing\n    at handler (/app/server.js:3:9)","EBAD"]"#;
        let expected = "failed: TypeError: bad thing\n    at handler (/app/server.js:3:9) {\"code\":\"EBAD\"}";
        assert_eq!(line(error).unwrap().split_once(" - ").unwrap(), ("[2026-11-30T15:24:58.664Z] [ERROR] default", expected));

        let cells = [json!({"message": "6", "stack": "7"}), json!(""), json!("Error\n    at x"), json!("%s failed")];
        assert_eq!(text(&json!(["8", "5"]), &cells), "Error\n    at x failed");
        assert_eq!(text(&json!(["5"]), &cells), "Error\n    at x");
        assert_eq!(text(&json!([12, "8", "5"]), &cells), "12 %s failed Error\n    at x");
    }

    #[test]
    fn a_circle_ends() {
        let circle = r#"[{"startTime":"1","categoryName":"2","data":"3","level":"4","context":"5","pid":26172,"error":"6",
            "cluster":"7"},"2026-11-30T15:24:58.664Z","default",
            ["8"],{"level":5000,"levelStr":"9","colour":"10"},{},"__LOG4JS_undefined__",
            {"workerId":1,"worker":26172},{"name":"11","self":"8","list":"12"},"TRACE","blue","loop",["8","13"],"__proto__"]"#;
        let expected = r#"{"list":["[Circular]","__proto__"],"name":"loop","self":"[Circular]"}"#;
        assert_eq!(line(circle).unwrap().split_once(" - ").unwrap().1, expected);
        assert_eq!(text(&json!(["3"]), &[]), r#"["[Circular]"]"#);
        let own = [json!({"message": "6", "stack": "6", "cause": "5"}), json!("Error")];
        assert_eq!(text(&json!(["5"]), &own), r#"Error {"cause":"[Circular]"}"#);
    }

    #[test]
    fn placeholders_take_what_they_can() {
        let cases = [
            (json!(["%s %d %i %f", "1.5", "1.5", "1.5", "x"]), "1.5 1.5 1 NaN"),
            (json!(["%d|%d|%d|%d|%d", " ", true, null, -3.25, "1".repeat(101)]), "0|1|0|-3.25|NaN"),
            (json!(["%j %o %O", "a\"b", 1, "c"]), r#""a\"b" 1 "c""#),
            (json!(["%f %i %f", null, true, "-Infinity"]), "NaN NaN -Infinity"),
            (json!(["%c%s", "css", "x"]), "x"),
            (json!(["%s%", "x"]), "x%"),
            (json!(["%%%s%%", "x", "y"]), "%x% y"),
            (json!(["% %é %x", "x"]), "% %é %x x"),
            (json!(["%s", "two\nlines\n"]), "two\nlines"),
            (json!(["a\n\n"]), "a\n"),
            (json!([null, "a", true]), "null a true"),
        ];
        for (data, expected) in cases {
            let (mut cells, mut places) = (Vec::new(), Vec::new());
            for value in data.as_array().unwrap() {
                let is_text = value.is_string();
                places.push(if is_text { json!((5 + cells.len()).to_string()) } else { value.clone() });
                cells.extend(is_text.then(|| value.clone()));
            }
            assert_eq!(text(&Value::from(places), &cells), expected, "{data}");
        }
        assert_eq!(text(&json!([]), &[]), "");
        assert_eq!(text(&json!("__LOG4JS_-Infinity__"), &[]), "-Infinity");
        assert_eq!(text(&json!(["6", "5"]), &[json!({}), json!("%d")]), "NaN");
    }

    #[test]
    fn what_is_no_event_is_none() {
        let good: Value = serde_json::from_str(&event(&json!(["2"]), &[])).unwrap();
        assert!(line(&good.to_string()).is_some());
        for (at, bad) in [
            (0, json!("x")),
            (0, json!({})),
            (0, json!({"startTime": "1", "categoryName": "2", "data": "3", "level": "9"})),
            (0, json!({"startTime": "1", "categoryName": 2, "data": "3", "level": "4"})),
            (0, json!({"startTime": "-1", "categoryName": "2", "data": "3", "level": "4"})),
            (1, json!("yesterday")),
            (1, json!("2026-11-30T12:00:00.000")),
            (1, json!("2026-11-30 12:00:00\n.0Z")),
            (1, json!(null)),
            (2, json!({})),
            (3, json!("text")),
            (3, json!(7)),
            (3, json!({"0": "2"})),
            (4, json!("INFO")),
            (4, json!({"level": 1})),
            (4, json!({"levelStr": "3"})),
        ] {
            let mut event = good.clone();
            event[at] = bad;
            assert_eq!(line(&event.to_string()), None, "{event}");
        }
        for bad in ["", "{}", "[]", "null", "[1]", "[[]]", "\"x\"", "[{}", &"[".repeat(100_000)] {
            assert_eq!(line(bad), None);
        }
        // Broken places in the data cost only what they stand for.
        assert_eq!(text(&json!(["99", "x", {}, ["2"], "2"]), &[]), "undefined undefined undefined undefined app");
    }

    #[test]
    fn what_unfolds_without_end_is_cut_off() {
        // Each array holds the next one a hundred times.
        let nested: Vec<Value> = (6..26).map(|next: u32| json!(vec![next.to_string(); 100])).collect();
        let cut = text(&json!(["5"]), &nested);
        assert!(cut.len() < LONGEST + 100 && cut.ends_with(" ..."), "{}", cut.len());
        let long = [json!("é".repeat(300_000)), json!(vec!["5"; 1000])];
        for data in [json!(vec!["5"; 1000]), json!(["6"])] {
            let cut = text(&data, &long);
            assert!(cut.len() > LONGEST - 100 && cut.len() < LONGEST + 100 && cut.ends_with(" ..."), "{}", cut.len());
        }
        // A hundred levels, one below the other.
        let deep: Vec<Value> = (6..106).map(|next: u32| json!([next.to_string()])).collect();
        let deepest = text(&json!(["5"]), &deep);
        assert_eq!(deepest, format!("{}\"[...]\"{}", "[".repeat(DEEPEST), "]".repeat(DEEPEST)));
        // Many empty ones: steps, not bytes.
        assert!(text(&json!(["6"]), &[json!({}), json!(vec!["5"; 200_000])]).ends_with(" ..."));
    }

    fn cell() -> impl Strategy<Value = Value> {
        let reference = (0..12_u32).prop_map(|place| json!(place.to_string()));
        let value = prop_oneof![
            4 => reference,
            1 => Just(Value::Null),
            1 => any::<f64>().prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
            1 => "[%sdijc\n\"é-]{0,8}".prop_map(Value::from),
        ];
        let key =
            proptest::sample::select(vec!["startTime", "level", "levelStr", "data", "categoryName", "message", "stack", "a"]);
        let object = proptest::collection::btree_map(key.prop_map(str::to_owned), value.clone(), 0..8).prop_map(|map| json!(map));
        prop_oneof![object, proptest::collection::vec(value.clone(), 0..6).prop_map(Value::from), value]
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|\\[\\{.*\\}\\]") {
            let _ = line(&text);
        }

        #[test]
        fn no_cells_make_it_panic(mut cells in proptest::collection::vec(cell(), 1..18)) {
            let _ = line(&Value::from(cells.clone()).to_string());
            let data = cells.split_off(cells.len() / 2);
            prop_assert!(line(&event(&Value::from(data), &cells)).is_some());
        }
    }
}
