//! Names for ids (`[names]`): wherever an id may be written, `@ann` stands for the id named `ann`.
//!
//! A name is one topic level and case-sensitive. Anything that begins with `@` is a name: an id that itself begins with `@` is
//! written `%40…` in topics and `@@…` in JSON and in the configuration. The configuration supplies the names; here they are
//! looked up, in both directions.

use std::collections::{BTreeMap, HashMap};

use crate::protocol::{GroupId, Receiver, Subject, Uid};

/// The longest name, in characters.
const LONGEST: usize = 64;
/// What likeness makes a name worth suggesting.
const LIKE: f64 = 0.5;

/// What a name stands for, with its article.
const fn kind(target: &Receiver) -> &'static str {
    match target {
        Receiver::User(_) => Uid::KIND,
        Receiver::Group(_) => GroupId::KIND,
        Receiver::Subject(_) => Subject::KIND,
    }
}

/// An id that can have a name.
pub trait Nameable: TryFrom<String> + Clone {
    /// What it is, with its article.
    const KIND: &'static str;

    /// The id, if the name stands for one of this kind.
    fn of(target: &Receiver) -> Option<&Self>;

    /// The id's text.
    fn id(&self) -> &str;
}

macro_rules! nameable {
    ($($id:ident: $variant:ident, $kind:literal;)*) => {$(
        impl Nameable for $id {
            const KIND: &'static str = $kind;

            fn of(target: &Receiver) -> Option<&Self> {
                if let Receiver::$variant(id) = target { Some(id) } else { None }
            }

            fn id(&self) -> &str {
                self.as_str()
            }
        }
    )*};
}

nameable! {
    Uid: User, "a user";
    GroupId: Group, "a group";
    Subject: Subject, "a subject";
}

/// All names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    targets: BTreeMap<String, Receiver>,
    names: HashMap<Receiver, String>,
}

impl Names {
    /// Adds a name.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn add(&mut self, name: &str, target: Receiver) -> Result<(), String> {
        if !is_name(name) {
            return Err(format!("a name has 1 to {LONGEST} letters, digits, '-', '_' or '.'"));
        }
        if let Some(other) = self.names.get(&target) {
            return Err(format!("\"{other}\" stands for the same id; an id has one name"));
        }
        self.names.insert(target.clone(), name.to_owned());
        self.targets.insert(name.to_owned(), target);
        Ok(())
    }

    /// What is written for an id, if that is a name (`@ann`) or an escaped `@`; none if it is the id itself.
    ///
    /// # Errors
    ///
    /// There is no such name, or it stands for something else; with the nearest one.
    pub fn named<T: Nameable>(&self, written: &str) -> Option<Result<T, String>> {
        let name = written.strip_prefix('@')?;
        if name.starts_with('@') {
            // Never empty.
            return T::try_from(name.to_owned()).ok().map(Ok);
        }
        Some(match self.targets.get(name) {
            Some(target) => {
                let other = || format!("@{name} is {} in [names], not {}", kind(target), T::KIND);
                T::of(target).cloned().ok_or_else(other)
            }
            None => Err(self.unknown::<T>(name)),
        })
    }

    fn unknown<T: Nameable>(&self, name: &str) -> String {
        let shown: String = name.chars().take(LONGEST).collect();
        let cut = if shown.len() < name.len() { "…" } else { "" };
        let of_kind = self.targets.iter().filter(|(_, target)| T::of(target).is_some()).map(|(name, _)| name);
        let likeness = |other: &&String| strsim::normalized_damerau_levenshtein(other, &shown);
        let nearest = of_kind.max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
        let hint = match nearest {
            None => format!("none in [names] is {}", T::KIND),
            Some(nearest) if likeness(&nearest) >= LIKE => format!("did you mean @{nearest}?"),
            Some(nearest) => format!("the nearest is @{nearest}"),
        };
        format!(
            "there is no name @{shown}{cut}; {hint} (an id that itself begins with @ is %40… in a topic, @@… elsewhere)"
        )
    }

    /// What a user is called.
    #[must_use]
    pub fn of_user(&self, uid: &Uid) -> Option<&str> {
        self.name(|| Receiver::User(uid.clone()))
    }

    /// What a group is called.
    #[must_use]
    pub fn of_group(&self, group: &GroupId) -> Option<&str> {
        self.name(|| Receiver::Group(group.clone()))
    }

    /// What a subject is called.
    #[must_use]
    pub fn of_subject(&self, subject: &Subject) -> Option<&str> {
        self.name(|| Receiver::Subject(subject.clone()))
    }

    /// What a receiver is called.
    #[must_use]
    pub fn of(&self, receiver: &Receiver) -> Option<&str> {
        self.names.get(receiver).map(String::as_str)
    }

    /// Without names, nothing is copied.
    fn name(&self, target: impl FnOnce() -> Receiver) -> Option<&str> {
        if self.names.is_empty() { None } else { self.names.get(&target()).map(String::as_str) }
    }

    /// Every name and what it stands for, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Receiver)> {
        self.targets.iter().map(|(name, target)| (name.as_str(), target))
    }
}

/// Whether it can be a name: a word that is one topic level, and is none of the characters that mean something there.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.chars().count() <= LONGEST && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        names.add("ann", Receiver::User("413".parse().unwrap())).unwrap();
        names.add("家人", Receiver::Group("4cdad356-85b4-008627".parse().unwrap())).unwrap();
        names.add("lamp", Receiver::Subject("home/lamp".parse().unwrap())).unwrap();
        names
    }

    #[test]
    fn a_name_stands_for_its_id_and_back() {
        let names = names();
        assert_eq!(names.named::<Uid>("@ann").unwrap().unwrap().as_str(), "413");
        assert_eq!(names.named::<GroupId>("@家人").unwrap().unwrap().as_str(), "4cdad356-85b4-008627");
        assert_eq!(names.named::<Subject>("@lamp").unwrap().unwrap().as_str(), "home/lamp");
        assert_eq!(names.named::<Uid>("413"), None);
        assert_eq!(names.named::<Uid>("a@ann"), None);
        assert_eq!(names.named::<Uid>("@@ann").unwrap().unwrap().as_str(), "@ann");
        assert_eq!(names.named::<Uid>("@@").unwrap().unwrap().as_str(), "@");
        assert_eq!(names.of_user(&"413".parse().unwrap()), Some("ann"));
        assert_eq!(names.of_user(&"412".parse().unwrap()), None);
        // An id of another kind with the same digits is another thing.
        assert_eq!(names.of_group(&"413".parse().unwrap()), None);
        assert_eq!(names.of_subject(&"home/lamp".parse().unwrap()), Some("lamp"));
    }

    #[test]
    fn what_is_no_name_says_so_with_the_nearest() {
        let names = names();
        for (written, says) in [
            ("@an", &["no name @an", "did you mean @ann?", "%40"][..]),
            ("@Ann", &["did you mean @ann?"]),
            ("@zebra", &["the nearest is @ann"]),
            ("@", &["no name @;"]),
            ("@lamp", &["@lamp is a subject", "not a user"]),
            ("@家人", &["is a group"]),
        ] {
            let error = names.named::<Uid>(written).unwrap().unwrap_err();
            assert!(says.iter().all(|what| error.contains(what)), "{written}: {error}");
        }
        let none = Names::default().named::<Uid>("@ann").unwrap().unwrap_err();
        assert!(none.contains("none in [names] is a user"), "{none}");
        // However long: it takes no time, and the message stays short.
        let long = names.named::<Uid>(&format!("@{}", "x".repeat(60_000))).unwrap().unwrap_err();
        assert!(long.len() < 300, "{long}");
    }

    #[test]
    fn names_are_words_and_ids_have_one() {
        let mut names = names();
        let user = |id: &str| Receiver::User(id.parse().unwrap());
        for name in ["", "a/b", "a+", "#", "@a", "a b", "a%", "a$", "a\u{0}", "a\"", &"x".repeat(65)] {
            assert!(names.add(name, user("1")).unwrap_err().contains("letters"), "{name:?}");
        }
        for (n, name) in ["Ann", "a.b-c_d", "张三", &"x".repeat(64)].into_iter().enumerate() {
            names.add(name, user(&n.to_string())).unwrap();
        }
        assert!(names.add("mum", user("413")).unwrap_err().contains("\"ann\""));
    }

    proptest! {
        #[test]
        fn anything_may_be_asked_for(written in "(?s)@?.{0,80}") {
            match names().named::<Uid>(&written) {
                None => prop_assert!(!written.starts_with('@')),
                Some(Ok(uid)) => {
                    let escaped = format!("@{}", uid.as_str());
                    prop_assert!(written == "@ann" || written == escaped);
                }
                Some(Err(error)) => prop_assert!(error.len() < 600),
            }
        }

        #[test]
        fn every_name_is_one_level_that_needs_no_escape(name in "(?s).{1,8}|[-._a-z0-9张]{1,8}") {
            if is_name(&name) {
                prop_assert_eq!(crate::local::escape::escape_id(&name), name);
            }
        }
    }
}
