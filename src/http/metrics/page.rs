//! Samples become Prometheus' text by the encoder of `prometheus-client`.
//!
//! Nothing is registered for long: a registry is made for each answer and holds one collector with its samples, so there are no
//! counters beside those of the snapshot, and nothing to keep in step with it.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabel, EncodeLabelSet, GaugeValueEncoder,
    LabelSetEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::table::{Family, Kind};
use crate::cluster::words::Slot;

pub(super) type Text = Cow<'static, str>;

/// The samples of one answer, by family.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<(&'static Family, Vec<Sample>)>);

#[derive(Debug)]
struct Sample {
    labels: Labels,
    value: Value,
}

/// Label values, in the order of the names in the table.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    names: &'static [&'static str],
    worker: Option<Slot>,
    others: [Option<Text>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Part(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Part(value)
    }
}

impl Page {
    /// A sample of the last family, or of one that begins here. What cannot be had is left out, and so is a family without samples.
    fn add(&mut self, family: &'static Family, worker: Option<Slot>, others: [Option<Text>; 2], value: Option<Value>) {
        let Some(value) = value else { return };
        let sample = Sample { labels: Labels { names: family.labels, worker, others }, value };
        match self.0.last_mut() {
            Some((last, samples)) if *last == family => samples.push(sample),
            _ => self.0.push((family, vec![sample])),
        }
    }

    pub(super) fn one(&mut self, family: &'static Family, value: Option<impl Into<Value>>) {
        self.add(family, None, [None, None], value.map(Into::into));
    }

    pub(super) fn named(&mut self, family: &'static Family, label: impl Into<Text>, value: impl Into<Value>) {
        self.add(family, None, [Some(label.into()), None], Some(value.into()));
    }

    pub(super) fn named_twice(&mut self, family: &'static Family, labels: [&'static str; 2], value: Option<impl Into<Value>>) {
        self.add(family, None, labels.map(|label| Some(label.into())), value.map(Into::into));
    }

    pub(super) fn worker(&mut self, family: &'static Family, slot: Slot, value: Option<impl Into<Value>>) {
        self.add(family, Some(slot), [None, None], value.map(Into::into));
    }

    pub(super) fn worker_named(&mut self, family: &'static Family, slot: Slot, label: &'static str, value: impl Into<Value>) {
        self.add(family, Some(slot), [Some(label.into()), None], Some(value.into()));
    }

    /// Prometheus' text format 0.0.4.
    pub(super) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in &self.0 {
            let (kind, name) = match family.kind {
                // The encoder puts it there again.
                Kind::Counter => (MetricType::Counter, family.name.trim_end_matches("_total")),
                Kind::Gauge => (MetricType::Gauge, family.name),
            };
            let mut described = encoder.encode_descriptor(name, family.help, None, kind)?;
            for sample in samples {
                let mut series = described.encode_family(&sample.labels)?;
                match family.kind {
                    Kind::Counter => series.encode_counter::<NoLabelSet, _, f64>(&sample.value, None)?,
                    Kind::Gauge => series.encode_gauge(&sample.value)?,
                }
            }
        }
        Ok(())
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut names = self.names.iter().copied();
        if let Some(slot) = self.worker
            && let Some(name) = names.next()
        {
            (name, slot.0).encode(encoder.encode_label())?;
        }
        for (name, value) in names.zip(self.others.iter().flatten()) {
            (name, value.as_ref()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

impl EncodeGaugeValue for Value {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => EncodeGaugeValue::encode(value, encoder),
            Self::Part(value) => EncodeGaugeValue::encode(value, encoder),
        }
    }
}

impl EncodeCounterValue for Value {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => EncodeCounterValue::encode(value, encoder),
            Self::Part(value) => EncodeCounterValue::encode(value, encoder),
        }
    }
}
