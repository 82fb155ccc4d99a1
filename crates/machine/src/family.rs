//! A metric family on its way to the exposition.

use model::MetricType;

/// One sample of a family.
#[derive(Debug, Clone)]
pub struct FamilySample {
    /// Label names and values, in the order of the exposition.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// A metric family: a name, what it means, its samples.
#[derive(Debug, Clone)]
pub struct Family {
    /// The name.
    pub name: String,
    /// The help text.
    pub help: String,
    /// The type.
    pub metric_type: MetricType,
    /// The samples; each label set once.
    pub samples: Vec<FamilySample>,
}

impl Family {
    fn new(name: &str, help: &str, metric_type: MetricType) -> Family {
        Family { name: name.to_owned(), help: help.to_owned(), metric_type, samples: Vec::new() }
    }

    pub(crate) fn gauge(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::Gauge)
    }

    pub(crate) fn counter(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::Counter)
    }

    pub(crate) fn untyped(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::Unknown)
    }

    /// The family with one sample without labels.
    pub(crate) fn with(mut self, value: f64) -> Family {
        self.push(&[], value);
        self
    }

    pub(crate) fn push(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(FamilySample { labels, value });
    }
}
