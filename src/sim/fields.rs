//! Reads the fields of a call's JSON object. What does not fit is answered with 1010.

use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use super::Options;
use super::refusal::{BAD_CREDENTIALS, INVALID_PARAMETER};
use crate::protocol::{EmptyId, ResultCode, Uid};

/// The object a call came with.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    strict: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn new(map: &'a Map<String, Value>, strict: bool) -> Self {
        Self { map, strict }
    }

    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Refuses fields that the manual's table does not list, when strict.
    pub(super) fn only(&self, listed: &[&str]) -> Result<(), ResultCode> {
        let fits = !self.strict || self.map.keys().all(|key| listed.contains(&key.as_str()));
        if fits { Ok(()) } else { Err(INVALID_PARAMETER) }
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, ResultCode> {
        self.map.get(key).and_then(Value::as_str).ok_or(INVALID_PARAMETER)
    }

    pub(super) fn non_empty(&self, key: &str) -> Result<&'a str, ResultCode> {
        self.text(key).ok().filter(|text| !text.is_empty()).ok_or(INVALID_PARAMETER)
    }

    /// A string; unless strict, a number counts as its text.
    pub(super) fn id<T: TryFrom<String, Error = EmptyId>>(&self, key: &str) -> Result<T, ResultCode> {
        self.id_of(self.map.get(key).ok_or(INVALID_PARAMETER)?)
    }

    pub(super) fn uids(&self, key: &str) -> Result<Vec<Uid>, ResultCode> {
        let list = self.map.get(key).and_then(Value::as_array).ok_or(INVALID_PARAMETER)?;
        list.iter().map(|value| self.id_of(value)).collect()
    }

    /// An integer; unless strict, its text in a string will do.
    pub(super) fn int(&self, key: &str) -> Result<i64, ResultCode> {
        match self.map.get(key) {
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(text)) if !self.strict => text.trim().parse().ok(),
            _ => None,
        }
        .ok_or(INVALID_PARAMETER)
    }

    /// 0 or 1.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ResultCode> {
        match self.int(key)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(INVALID_PARAMETER),
        }
    }

    fn id_of<T: TryFrom<String, Error = EmptyId>>(&self, value: &Value) -> Result<T, ResultCode> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if !self.strict => number.to_string(),
            _ => return Err(INVALID_PARAMETER),
        };
        T::try_from(text).map_err(|EmptyId| INVALID_PARAMETER)
    }
}

/// Refuses an account the service does not know.
pub(super) fn check_credentials(options: &Options, fields: Fields<'_>) -> Result<(), ResultCode> {
    let (appkey, secretkey) = (fields.text("appkey")?, fields.text("secretkey")?);
    let known = appkey == options.appkey && secretkey == options.secretkey.expose_secret();
    if known { Ok(()) } else { Err(BAD_CREDENTIALS) }
}
