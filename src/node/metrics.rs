//! prom-client's metrics of all workers as one text: what `AggregatorRegistry.aggregate(..).metrics()` makes of them. PURE.
//!
//! A worker answers `prom-client:getMetricsReq` with its registries as JSON: an array of registries, each an array of metrics.
//!
//! ```text
//! [[{"name": "a", "help": "", "type": "counter", "aggregator": "sum", "values": [{"labels": {"code": 200}, "value": 7}]}]]
//! ```
//!
//! Families and series are in the order in which they first come, labels by name. Where workers differ in help or aggregator, the
//! first counts. prom-client gives up everything at the first mistake; here a bad entry is passed over and counted, and the text
//! is always one that Prometheus reads. There is a bound, for programs that put user ids into labels.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

/// All series of all workers, and all families.
const MOST: usize = 10_000;
/// What begins so is ours: a family that comes twice would spoil the whole answer.
const OURS: &str = "clusterinit_";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Prometheus' text format 0.0.4; empty where there is no metric.
    pub text: String,
    /// Entries that are not in it: malformed, not a finite number (JSON has `null` for those), or beyond the bound.
    pub skipped: u32,
}

/// One reply per worker: the `metrics` of its message.
pub fn merge(replies: &[Value]) -> Merged {
    let mut merging = Merging::default();
    for reply in replies {
        for registry in merging.entries(reply) {
            for metric in merging.entries(registry) {
                merging.add(metric);
            }
        }
    }
    Merged { text: merging.text(), skipped: merging.skipped }
}

#[derive(Default)]
struct Merging<'a> {
    families: InOrder<&'a str, Family<'a>>,
    series: usize,
    skipped: u32,
}

impl<'a> Merging<'a> {
    fn entries(&mut self, value: &'a Value) -> &'a [Value] {
        let entries = value.as_array();
        self.skip(usize::from(entries.is_none()));
        entries.map_or(&[], Vec::as_slice)
    }

    fn skip(&mut self, entries: usize) {
        self.skipped = self.skipped.saturating_add(u32::try_from(entries).unwrap_or(u32::MAX));
    }

    fn add(&mut self, metric: &'a Value) {
        let Some((read, samples)) = Family::read(metric) else { return self.skip(1) };
        let (kind, has_room) = (read.kind, self.families.len() < MOST);
        let family = self.families.of(read.name, || has_room.then_some(read));
        let Some(family) = family.filter(|family| family.kind == kind) else { return self.skip(1) };
        if family.aggregator == Aggregator::Omit {
            return;
        }
        let before = family.series.len();
        let most = before + MOST.saturating_sub(self.series);
        let failed = samples.iter().filter(|sample| family.add(sample, most).is_none()).count();
        self.series += family.series.len() - before;
        self.skip(failed);
    }

    /// Blocks with an empty line between them, as prom-client writes them.
    fn text(&self) -> String {
        let printed = self.families.in_order().into_iter().filter(|(_, family)| family.aggregator != Aggregator::Omit);
        let blocks: Vec<String> = printed.map(|(_, family)| family.text()).collect();
        blocks.join("\n")
    }
}

/// Values by key, in the order in which their keys first came.
struct InOrder<K, V>(BTreeMap<K, (usize, V)>);

impl<K, V> Default for InOrder<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V> InOrder<K, V> {
    fn len(&self) -> usize {
        self.0.len()
    }

    /// The value of this key; where there is none, the new one if there is to be one.
    fn of(&mut self, key: K, new: impl FnOnce() -> Option<V>) -> Option<&mut V> {
        let place = self.0.len();
        match self.0.entry(key) {
            Entry::Occupied(found) => Some(&mut found.into_mut().1),
            Entry::Vacant(free) => new().map(|value| &mut free.insert((place, value)).1),
        }
    }

    fn in_order(&self) -> Vec<(&K, &V)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(_, (place, _))| *place);
        all.into_iter().map(|(key, (_, value))| (key, value)).collect()
    }
}

/// The metrics of one name.
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: Kind,
    aggregator: Aggregator,
    /// By name and labels as they are printed.
    series: InOrder<String, Fold>,
}

impl<'a> Family<'a> {
    /// What is said of the family in one worker's metric, and the samples there.
    fn read(metric: &'a Value) -> Option<(Self, &'a [Value])> {
        let name = metric.get("name")?.as_str().filter(|name| is_name(name, ":") && !name.starts_with(OURS))?;
        let help = metric.get("help").map_or(Some(""), Value::as_str)?;
        let kind = Kind::read(metric.get("type")?.as_str()?)?;
        let aggregator = Aggregator::read(metric.get("aggregator").map_or(Some("sum"), Value::as_str)?)?;
        let samples = metric.get("values")?.as_array()?;
        Some((Self { name, help, kind, aggregator, series: InOrder::default() }, samples))
    }

    /// `None` if it is not one of this family, or if that would be more series than `most`.
    fn add(&mut self, sample: &Value, most: usize) -> Option<()> {
        let value = sample.get("value")?.as_f64()?;
        let series = self.series_of(sample)?;
        let has_room = self.series.len() < most;
        self.series.of(series, || has_room.then_some(Fold::NOTHING))?.add(value);
        Some(())
    }

    /// `http_seconds_bucket{le="0.1",method="GET"}`
    fn series_of(&self, sample: &Value) -> Option<String> {
        let no_labels = Map::new();
        let labels = sample.get("labels").map_or(Some(&no_labels), Value::as_object)?;
        let name = sample.get("metricName").filter(|name| !name.is_null()).map_or(Some(self.name), Value::as_str)?;
        if !self.kind.has(name.strip_prefix(self.name)?, labels) {
            return None;
        }
        let labels = labels.iter().map(|(label, value)| {
            // Two underscores are Prometheus' own: a second `__name__` makes it refuse the whole text.
            let is_good = is_name(label, "") && !label.starts_with("__");
            is_good
                .then(|| label_text(value))
                .flatten()
                .map(|value| format!("{label}=\"{}\"", escaped(&value).replace('"', "\\\"")))
        });
        let labels = labels.collect::<Option<Vec<_>>>()?.join(",");
        Some(if labels.is_empty() { name.to_owned() } else { format!("{name}{{{labels}}}") })
    }

    fn text(&self) -> String {
        let Self { name, help, kind, .. } = self;
        let mut text = format!("# HELP {name} {}\n# TYPE {name} {}\n", escaped(help), kind.name());
        for (series, fold) in self.series.in_order() {
            text.push_str(series);
            text.push(' ');
            text.push_str(&number(fold.value(self.aggregator)));
            text.push('\n');
        }
        text
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Counter, Self::Gauge, Self::Histogram, Self::Summary, Self::Untyped];

    fn read(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }

    /// Does a family of this kind have samples with this behind its name?
    fn has(self, suffix: &str, labels: &Map<String, Value>) -> bool {
        let is_number = |label: &str| labels.get(label).and_then(label_text).is_some_and(|text| text.parse::<f64>().is_ok());
        match (self, suffix) {
            (Self::Histogram, "_bucket") => is_number("le"),
            (Self::Summary, "") => is_number("quantile"),
            (Self::Histogram | Self::Summary, suffix) => suffix == "_sum" || suffix == "_count",
            (Self::Counter | Self::Gauge | Self::Untyped, suffix) => suffix.is_empty(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregator {
    Sum,
    First,
    Min,
    Max,
    Average,
    /// Not shown: a sum of start times says nothing.
    Omit,
}

impl Aggregator {
    fn read(name: &str) -> Option<Self> {
        match name {
            "sum" => Some(Self::Sum),
            "first" => Some(Self::First),
            "min" => Some(Self::Min),
            "max" => Some(Self::Max),
            "average" => Some(Self::Average),
            "omit" => Some(Self::Omit),
            _ => None,
        }
    }
}

/// The values of one series so far, of as many workers as have it.
#[derive(Clone, Copy, Debug)]
struct Fold {
    first: Option<f64>,
    sum: f64,
    least: f64,
    most: f64,
    values: u32,
}

impl Fold {
    const NOTHING: Self = Self { first: None, sum: 0.0, least: f64::INFINITY, most: f64::NEG_INFINITY, values: 0 };

    fn add(&mut self, value: f64) {
        self.first.get_or_insert(value);
        self.sum += value;
        self.least = self.least.min(value);
        self.most = self.most.max(value);
        self.values = self.values.saturating_add(1);
    }

    fn value(&self, aggregator: Aggregator) -> f64 {
        match aggregator {
            Aggregator::Sum | Aggregator::Omit => self.sum,
            Aggregator::First => self.first.unwrap_or_default(),
            Aggregator::Min => self.least,
            Aggregator::Max => self.most,
            Aggregator::Average => self.sum / f64::from(self.values),
        }
    }
}

/// Letters, digits, `_` and what else is given, no digit first.
fn is_name(text: &str, others: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || c == '_' || others.contains(c);
    text.starts_with(|c: char| !c.is_ascii_digit()) && text.chars().all(is_good)
}

/// prom-client takes numbers as label values, and 200 and "200" for the same.
fn label_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(value) => value.as_f64().map(number),
        Value::Bool(_) | Value::Null => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// As JavaScript writes it: with an exponent from 1e21 on and below 1e-6.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    // No minus sign for zero.
    let value = value + 0.0;
    if value == 0.0 || (1e-6..1e21).contains(&value.abs()) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    if value.abs() < 1.0 { text } else { text.replace('e', "e+") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Three workers' answers, with default metrics and every aggregator, and what prom-client 15.1.3 makes of them.
    const REPLIES: &str = include_str!("metrics/replies.json");
    const EXPECTED: &str = include_str!("metrics/expected.txt");

    fn replies() -> Vec<Value> {
        serde_json::from_str(REPLIES).unwrap()
    }

    /// A counter as one worker has it.
    fn counter(name: &str, samples: &Value) -> Value {
        json!([[{"name": name, "help": "h", "type": "counter", "aggregator": "sum", "values": samples}]])
    }

    #[test]
    fn it_is_what_prom_client_makes_of_them() {
        let merged = merge(&replies());
        assert!(merged.skipped == 0 && merged.text.ends_with("own_registry_total 3\n"));
        assert_eq!(merged.text.lines().count(), EXPECTED.lines().count());
        for (ours, theirs) in merged.text.lines().zip(EXPECTED.lines()) {
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn a_bad_worker_spoils_nothing() {
        let good = merge(&replies());
        let all_bad = [
            json!(null),
            json!("metrics"),
            json!({"metrics": []}),
            json!([null]),
            json!([[null]]),
            json!([[{"name": "http_requests_total"}]]),
            json!([[{"name": "http_requests_total", "help": "", "type": "gauge", "aggregator": "sum", "values": []}]]),
            json!([[{"name": "a b", "help": "", "type": "gauge", "aggregator": "sum", "values": []}]]),
            json!([[{"name": "clusterinit_x", "help": "", "type": "gauge", "aggregator": "sum", "values": []}]]),
            json!([[{"name": "a", "help": 1, "type": "gauge", "aggregator": "sum", "values": []}]]),
            json!([[{"name": "a", "help": "", "type": "info", "aggregator": "sum", "values": []}]]),
            json!([[{"name": "a", "help": "", "type": "gauge", "aggregator": "median", "values": []}]]),
            json!([[{"name": "a", "help": "", "type": "gauge", "aggregator": "sum", "values": {}}]]),
            counter("http_requests_total", &json!([{"labels": {"route": "/"}, "value": null}])),
            counter("http_requests_total", &json!([{"labels": {"route": "/"}, "value": "7"}])),
            counter("http_requests_total", &json!([{"labels": {"route": "/"}}])),
            counter("http_requests_total", &json!([{"labels": [], "value": 1}])),
            counter("http_requests_total", &json!([{"labels": {"route": {}}, "value": 1}])),
            counter("http_requests_total", &json!([{"labels": {"__name__": "up"}, "value": 1}])),
            counter("http_requests_total", &json!([{"labels": {"a-b": "x"}, "value": 1}])),
            counter("http_requests_total", &json!([{"labels": {"": "x"}, "value": 1}])),
            counter("http_requests_total", &json!([{"labels": {}, "metricName": "up", "value": 1}])),
            counter("http_requests_total", &json!([{"labels": {}, "metricName": "http_requests_total_sum", "value": 1}])),
            counter("http_requests_total", &json!([{"labels": {}, "metricName": "http_requests_total{} 1\nup", "value": 1}])),
            counter("http_requests_total", &json!([7])),
        ];
        for bad in all_bad {
            let mut with_bad = replies();
            with_bad.insert(1, bad.clone());
            let merged = merge(&with_bad);
            assert_eq!((merged.text.as_str(), merged.skipped), (good.text.as_str(), 1), "{bad}");
        }
        assert_eq!(merge(&[]), Merged::default());
        assert_eq!(merge(&[json!([]), json!([[]])]), Merged::default());
    }

    #[test]
    fn samples_belong_to_the_kind_of_their_family() {
        let cases = [
            ("histogram", "_bucket", json!({"le": 0.1}), true),
            ("histogram", "_bucket", json!({"le": "+Inf"}), true),
            ("histogram", "_bucket", json!({"le": "x"}), false),
            ("histogram", "_bucket", json!({}), false),
            ("histogram", "_sum", json!({}), true),
            ("histogram", "", json!({}), false),
            ("summary", "", json!({"quantile": 0.5}), true),
            ("summary", "", json!({}), false),
            ("summary", "_count", json!({}), true),
            ("summary", "_bucket", json!({"le": 1}), false),
            ("gauge", "", json!({"ok": true, "none": null}), true),
            ("gauge", "_sum", json!({}), false),
            ("untyped", "", json!({}), true),
        ];
        for (kind, suffix, labels, is_good) in cases {
            let samples = json!([{"metricName": format!("x{suffix}"), "labels": labels, "value": 1}]);
            let merged = merge(&[json!([[{"name": "x", "help": "", "type": kind, "values": samples}]])]);
            assert_eq!(merged.skipped, u32::from(!is_good), "{kind} {suffix} {labels}");
            assert_eq!(merged.text.lines().count(), if is_good { 3 } else { 2 }, "{kind} {suffix} {labels}");
        }
    }

    #[test]
    fn labels_that_are_written_alike_are_the_same_series() {
        let samples = json!([{"labels": {"code": 200}, "value": 1}, {"labels": {"code": "200"}, "value": 2}]);
        let merged = merge(&[counter("a", &samples), counter("a", &json!([{"value": 4, "metricName": null}]))]);
        assert_eq!(merged.text, "# HELP a h\n# TYPE a counter\na{code=\"200\"} 3\na 4\n");
    }

    #[test]
    fn series_beyond_the_bound_are_counted_and_known_ones_still_add_up() {
        let many = |from: usize| (from..from + 6000).map(|user| json!({"labels": {"user": user}, "value": 1})).collect::<Value>();
        let merged = merge(&[counter("a", &many(0)), counter("a", &many(6000)), counter("a", &many(0)), counter("b", &many(0))]);
        assert_eq!(merged.text.lines().filter(|line| line.starts_with("a{")).count(), MOST);
        assert!(merged.text.contains("a{user=\"5999\"} 2\n") && merged.text.contains("a{user=\"9999\"} 1\n"));
        assert_eq!(merged.skipped, 2000 + 6000);
        let families: Vec<_> = (0..MOST + 5).map(|at| counter(&format!("a{at}"), &json!([]))).collect();
        assert_eq!(merge(&families).skipped, 5);
    }

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (-1.5e300, "-1.5e+300"),
            (1e-6, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[ab]|b_total|le|counter|histogram|sum|omit|a_bucket|\\PC{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 60, 6, |inner| {
            let key = "name|help|type|aggregator|values|labels|value|metricName|le";
            let object = proptest::collection::btree_map(key, inner.clone(), 0..8);
            prop_oneof![proptest::collection::vec(inner, 0..5).prop_map(Value::from), object.prop_map(|map| json!(map))]
        })
    }

    /// Samples that are good or nearly so, in one family each.
    fn metric() -> impl Strategy<Value = Value> {
        let labels = proptest::collection::btree_map("[a-c_-]{0,2}|le|quantile", "[a\"\\\\\n0-9]{0,3}", 0..3);
        let sample = (labels, "_sum|_count|_bucket|x?", any::<f64>());
        let words = ("[a-c]", "counter|gauge|histogram|summary|untyped", "sum|first|min|max|average|omit");
        (words, proptest::collection::vec(sample, 0..5)).prop_map(|((name, kind, aggregator), samples)| {
            let samples = samples.into_iter().map(
                |(labels, suffix, value)| json!({"metricName": format!("{name}{suffix}"), "labels": labels, "value": value}),
            );
            let samples: Vec<_> = samples.collect();
            json!({"name": name, "help": "\\\n", "type": kind, "aggregator": aggregator, "values": samples})
        })
    }

    fn is_readable(line: &str) -> bool {
        if let Some(comment) = line.strip_prefix("# ") {
            return comment.starts_with("HELP ") || comment.starts_with("TYPE ");
        }
        let Some((series, value)) = line.rsplit_once(' ') else { return line.is_empty() };
        let (name, labels) = series.split_once('{').map_or((series, "}"), |(name, labels)| (name, labels));
        is_name(name, ":") && labels.ends_with('}') && value.parse::<f64>().is_ok()
    }

    proptest! {
        #[test]
        fn no_json_makes_it_panic(replies in proptest::collection::vec(any_json(), 0..4)) {
            prop_assert!(merge(&replies).text.lines().all(is_readable));
        }

        #[test]
        fn every_line_is_one_that_prometheus_reads(metrics in proptest::collection::vec(metric(), 0..9)) {
            let merged = merge(&[json!([metrics])]);
            prop_assert!(merged.text.lines().all(is_readable), "{}", merged.text);
            let samples = merged.text.lines().filter(|line| !line.starts_with('#'));
            let series: Vec<_> = samples.filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
            let different: BTreeSet<_> = series.iter().collect();
            prop_assert_eq!(series.len(), different.len(), "a series twice: {}", merged.text);
        }
    }
}
