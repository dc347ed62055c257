//! Reads the text format of Prometheus (version 0.0.4), and takes offence at whatever the format or its conventions forbid.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a series, by name.
type Labels = BTreeMap<String, String>;

/// All samples of one answer, by name.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<String, Vec<(Labels, f64)>>);

impl Metrics {
    /// Reads it all; panics at the first thing that is not as it must be.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains('\r'), "lines end in a line feed");
        let mut all = Self(BTreeMap::new());
        let (mut families, mut helped) = (BTreeSet::new(), String::new());
        let (mut family, mut kind) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(!help.trim().is_empty(), "{line}");
                name.clone_into(&mut helped);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, what) = rest.split_once(' ').expect(line);
                assert_eq!(name, helped, "HELP and TYPE belong together");
                assert!(families.insert(name.to_owned()), "{name} comes twice");
                assert!(["counter", "gauge", "histogram"].contains(&what), "{line}");
                assert_eq!(what == "counter", name.ends_with("_total"), "{line}");
                assert!(what != "histogram" || name.ends_with("_seconds"), "{line}");
                (family, kind) = (name.to_owned(), what.to_owned());
            } else {
                all.sample(line, &family, &kind);
            }
        }
        all.check_histograms();
        all
    }

    fn sample(&mut self, line: &str, family: &str, kind: &str) {
        let (series, value) = line.rsplit_once(' ').expect(line);
        let value: f64 = value.parse().expect(line);
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}').expect(line))),
            None => (series, Labels::new()),
        };
        assert!(is_name(name) && name.starts_with("ilink2mqtt_"), "{line}");
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        let fits = match kind {
            "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
            _ => suffix.is_empty(),
        };
        assert!(fits && labels.contains_key("le") == (suffix == "_bucket"), "{line}");
        let samples = self.0.entry(name.to_owned()).or_default();
        assert!(samples.iter().all(|(known, _)| *known != labels), "{line} comes twice");
        samples.push((labels, value));
    }

    fn check_histograms(&self) {
        for (name, buckets) in &self.0 {
            let Some(family) = name.strip_suffix("_bucket") else { continue };
            let bounds: Vec<f64> = buckets.iter().map(|(labels, _)| labels["le"].parse().unwrap()).collect();
            assert!(bounds.is_sorted() && bounds.last() == Some(&f64::INFINITY), "{name}: {bounds:?}");
            let counts: Vec<f64> = buckets.iter().map(|(_, count)| *count).collect();
            assert!(counts.is_sorted(), "{name}: {counts:?}");
            assert_eq!(counts.last(), Some(&self.get(&format!("{family}_count"), &[])), "{name}");
            self.get(&format!("{family}_sum"), &[]);
        }
    }

    /// The value of one series, whose name stands here without the prefix.
    #[track_caller]
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("there is no {name}{labels:?}"))
    }

    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let whole = if name.starts_with("ilink2mqtt_") { name.to_owned() } else { format!("ilink2mqtt_{name}") };
        let series = self.0.get(&whole)?;
        series.iter().find(|(labels, _)| *labels == wanted).map(|(_, value)| *value)
    }

    /// The value of what only has whole ones.
    #[track_caller]
    #[expect(clippy::cast_possible_truncation, reason = "checked")]
    pub(crate) fn whole(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let value = self.get(name, labels);
        assert!(value.fract().abs() < f64::EPSILON, "{name}{labels:?} is {value}");
        value as i64
    }

    /// How many series there are.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Every label's value.
    pub(crate) fn label_values(&self) -> impl Iterator<Item = &str> {
        self.0.values().flatten().flat_map(|(labels, _)| labels.values().map(String::as_str))
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|other| other.is_ascii_alphanumeric() || other == '_')
}

/// `a="x",b="y"`.
fn parse_labels(text: &str) -> Labels {
    let (mut labels, mut rest) = (Labels::new(), text);
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"").expect(text);
        assert!(is_name(name), "{text}");
        let mut value = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next().expect(text) {
                '"' => break,
                '\\' => value.push(match chars.next().expect(text) {
                    'n' => '\n',
                    escaped @ ('"' | '\\') => escaped,
                    other => panic!("\\{other} in {text}"),
                }),
                plain => value.push(plain),
            }
        }
        assert!(labels.insert(name.to_owned(), value).is_none(), "{text}");
        rest = chars.as_str();
        if let Some(next) = rest.strip_prefix(',') {
            rest = next;
        } else {
            assert!(rest.is_empty(), "{text}");
        }
    }
    labels
}

#[test]
fn what_is_forbidden_is_found() {
    let good = "# HELP ilink2mqtt_x_total X.\n# TYPE ilink2mqtt_x_total counter\nilink2mqtt_x_total{a=\"b\\\"\"} 1\n";
    assert_eq!(Metrics::parse(good).get("x_total", &[("a", "b\"")]), 1.0);
    for bad in [
        good.trim_end().to_owned(),
        good.replace("counter", "gauge"),
        good.replace("TYPE", "KIND"),
        good.replace("} 1", "} NaN"),
        good.replace('{', "{0"),
        format!("{good}ilink2mqtt_x_total{{a=\"b\\\"\"}} 2\n"),
        format!("{good}ilink2mqtt_y_total 2\n"),
    ] {
        assert!(std::panic::catch_unwind(|| Metrics::parse(&bad)).is_err(), "{bad}");
    }
}
