//! Templates: fixed text with `${value|filter}` in it.
//!
//! A template is parsed and checked once. There are no loops and no conditions: if a value is missing, the route does not fire.
//! In a topic, a value is one level or part of one, whatever it contains.

use super::values::{Scope, Source, Value, Values};
use crate::local::escape::{escape_id, is_unsendable};
use crate::local::filter::{MAX_SLASHES, MAX_STRING};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Upper,
    Lower,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value { source: Source, filters: Vec<Filter> },
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

impl Template {
    /// Reads a template; the error says what is wrong. `$${` stands for `${`.
    pub(super) fn parse(text: &str, scope: &Scope<'_>) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut fixed = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            let inner = from.get(2..).unwrap_or_default();
            if let Some(before) = before.strip_suffix('$') {
                fixed.push_str(before);
                fixed.push_str("${");
                rest = inner;
                continue;
            }
            fixed.push_str(before);
            let (inner, after) = inner.split_once('}').ok_or_else(|| format!("\"{from}\" has no closing }}"))?;
            if !fixed.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut fixed)));
            }
            let mut words = inner.split('|').map(str::trim);
            let source = Source::parse(words.next().unwrap_or_default(), scope)?;
            let filters = words.map(filter).collect::<Result<_, _>>()?;
            parts.push(Part::Value { source, filters });
            rest = after;
        }
        fixed.push_str(rest);
        if !fixed.is_empty() {
            parts.push(Part::Text(fixed));
        }
        Ok(Self(parts))
    }

    /// Whether it needs a message that is JSON.
    pub(super) fn reads_json(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Value { source: Source::Json(_), .. }))
    }

    /// Whether it uses the number that a rule reads.
    pub(super) fn reads_number(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Value { source: Source::Number, .. }))
    }

    /// The topic filter of all that this can become as a topic: `+` for each level with a value in it.
    pub(super) fn as_filter(&self) -> String {
        let marked = self.marked();
        marked.split('/').map(|level| if level.contains('\0') { "+" } else { level }).collect::<Vec<_>>().join("/")
    }

    /// Whether a level that begins with `@`, as names do, has a value in it.
    pub(super) fn has_value_in_name(&self) -> bool {
        self.marked().split('/').any(|level| level.starts_with('@') && level.contains('\0'))
    }

    /// The fixed text, with a NUL for each value.
    fn marked(&self) -> String {
        self.0.iter().map(|part| part.text().unwrap_or("\0")).collect()
    }

    /// Whether it is a template of topics that can be published to; the error says why not.
    pub(super) fn check_topic(&self) -> Result<(), String> {
        let fixed: Vec<&str> = self.0.iter().filter_map(|part| part.text()).collect();
        let Some(Part::Text(first)) = self.0.first() else {
            return Err(if self.0.is_empty() { "it is empty" } else { "it must begin with fixed text" }.to_owned());
        };
        if first.starts_with('$') {
            return Err("topics that begin with $ are the broker's own".to_owned());
        }
        if fixed.iter().any(|text| text.contains(['+', '#'])) {
            return Err("a topic to publish to has no wildcards (+, #)".to_owned());
        }
        if fixed.iter().any(|text| text.contains(is_unsendable)) {
            return Err("it has a character that brokers do not take".to_owned());
        }
        let slashes: usize = fixed.iter().map(|text| text.matches('/').count()).sum();
        let bytes: usize = fixed.iter().map(|text| text.len()).sum();
        if slashes > MAX_SLASHES || bytes > MAX_STRING {
            return Err("it is longer than brokers take".to_owned());
        }
        Ok(())
    }

    /// As a topic: values are escaped like ids, and must not be empty. The error says what is missing.
    pub(super) fn topic(&self, values: &Values<'_>) -> Result<String, String> {
        let mut topic = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => topic.push_str(text),
                Part::Value { source, filters } => {
                    let value = filtered(values.get(source)?, filters, source)?;
                    let text = value.text(source)?;
                    if text.is_empty() {
                        return Err(format!("${{{source}}} is empty"));
                    }
                    topic.push_str(&escape_id(&text));
                }
            }
        }
        Ok(topic)
    }

    /// As a payload. The error says what is missing.
    pub(super) fn payload(&self, values: &Values<'_>) -> Result<Vec<u8>, String> {
        let mut payload = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => payload.extend_from_slice(text.as_bytes()),
                Part::Value { source, filters } => match filtered(values.get(source)?, filters, source)? {
                    Value::Bytes(bytes) => payload.extend_from_slice(bytes),
                    value => payload.extend_from_slice(value.text(source)?.as_bytes()),
                },
            }
        }
        Ok(payload)
    }

    /// As a message to iLink, which takes no empty ones.
    pub(super) fn message(&self, values: &Values<'_>) -> Result<Vec<u8>, String> {
        let message = self.payload(values)?;
        if message.is_empty() { Err("the message is empty".to_owned()) } else { Ok(message) }
    }
}

impl Part {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Value { .. } => None,
        }
    }
}

fn filter(name: &str) -> Result<Filter, String> {
    match name {
        "upper" => Ok(Filter::Upper),
        "lower" => Ok(Filter::Lower),
        "json" => Ok(Filter::Json),
        _ => Err(format!("there is no filter |{name}; the filters are upper, lower and json")),
    }
}

fn filtered<'v>(value: Value<'v>, filters: &[Filter], source: &Source) -> Result<Value<'v>, String> {
    filters.iter().try_fold(value, |value, filter| {
        Ok(match filter {
            Filter::Upper => Value::from(value.text(source)?.to_uppercase()),
            Filter::Lower => Value::from(value.text(source)?.to_lowercase()),
            Filter::Json => Value::from(value.json(source)?),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::values::{Document, Offers};

    fn scope() -> Scope<'static> {
        Scope { levels: 2, captures: vec!["dev", "v"], offers: Offers { sender: true, ..Offers::default() } }
    }

    fn parse(text: &str) -> Template {
        Template::parse(text, &scope()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn render(template: &str, payload: &str) -> Result<String, String> {
        let document = Document::default();
        let values = Values::new(payload.as_bytes(), &document, vec!["one".into(), "".into()], Some("413"), Some(7));
        parse(template).payload(&values).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn values_and_filters() {
        for (template, payload, rendered) in [
            ("a ${payload} b", "x", "a x b"),
            ("${payload|upper}${1|lower}", "äx", "ÄXone"),
            ("$$ $ {} $1 ${2}", "", "$$ $ {} $1 "),
            ("$${payload}", "x", "${payload}"),
            ("${from_uid} ${time}", "x", "413 7"),
            ("{\"text\":${payload|json}}", "a\"b\n", "{\"text\":\"a\\\"b\\n\"}"),
            ("${json:/a/1}", r#"{"a":[1,21.5]}"#, "21.5"),
            ("${json:/a}", r#"{"a":"x\"y"}"#, "x\"y"),
            ("${json:/a|json}", r#"{"a":"x\"y"}"#, r#""x\"y""#),
            ("${json:/a|json}", r#"{"a":true}"#, "true"),
            ("${json:/a~1b}", r#"{"a/b":{"c":[]}}"#, r#"{"c":[]}"#),
            ("${json:}", " [1 ] ", "[1]"),
            // Numbers keep all their digits.
            ("${json:/a}", r#"{"a":1.50}"#, "1.50"),
            (
                "${json:/a} ${json:/b|json}",
                r#"{"a":123456789012345678901,"b":-1E400}"#,
                "123456789012345678901 -1e+400",
            ),
            ("${ json:/a | upper | json }", r#"{"a":"on"}"#, r#""ON""#),
        ] {
            assert_eq!(render(template, payload).as_deref(), Ok(rendered), "{template} {payload}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (template, payload, says) in [
            ("${json:/b}", r#"{"a":1}"#, "${json:/b}"),
            ("${json:/a}", r#"{"a":null}"#, "null"),
            ("${json:/a}", "no json", "not JSON"),
            ("${dev}", "x", "${dev}"),
        ] {
            let error = render(template, payload).unwrap_err();
            assert!(error.contains(says), "{template}: {error}");
        }
    }

    #[test]
    fn templates_that_cannot_be() {
        for (template, says) in [
            ("${payload", "closing"),
            ("${paylod}", "did you mean ${payload}?"),
            ("${device}", "did you mean ${dev}?"),
            ("${}", "no value ${}"),
            ("${0}", "2 wildcards"),
            ("${3}", "2 wildcards"),
            ("${json:a}", "slash"),
            ("${payload|trim}", "|trim"),
        ] {
            let error = Template::parse(template, &scope()).unwrap_err();
            assert!(error.contains(says), "{template}: {error}");
        }
        let none = Scope { levels: 0, captures: Vec::new(), offers: Offers::default() };
        assert!(Template::parse("${from_uid}", &none).unwrap_err().contains("messages from iLink"));
        assert!(Template::parse("${device}", &none).unwrap_err().contains("(?<device>…)"));
    }

    #[test]
    fn topics() {
        let document = Document::default();
        let values = |payload: &'static str| {
            Values::new(payload.as_bytes(), &document, vec!["a/b+#%".into(), "".into()], None, None)
        };
        assert_eq!(parse("x/${1}-${payload}/y").topic(&values("p")).unwrap(), "x/a%2Fb%2B%23%25-p/y");
        assert!(parse("x/${2}").topic(&values("p")).unwrap_err().contains("${2} is empty"));
        let not_text = Values::new(b"\xff", &document, Vec::new(), None, None);
        assert!(parse("x/${payload}").topic(&not_text).unwrap_err().contains("not text"));
        assert_eq!(parse("x/${1}-${payload}/y").as_filter(), "x/+/y");
        for (topic, says) in [
            ("", "empty"),
            ("${1}/x", "fixed text"),
            ("$SYS/x", "broker's own"),
            ("a/+/${1}", "wildcards"),
            ("a\u{1}", "character"),
        ] {
            assert!(parse(topic).check_topic().unwrap_err().contains(says), "{topic}");
        }
        parse("zigbee2mqtt/${1}/set").check_topic().unwrap();
    }
}
