//! From nodes to values, by the one definition that every key has.
//!
//! A [`Kind`] is a type that a value can have: it reads a node, and it tells its [`Shape`] to the schema and the
//! reference. `section!` makes a kind of a map with known keys, in `keys`. Reading never stops at a problem: it
//! notes the problem and goes on.

use std::collections::HashSet;
use std::fmt;

use super::error::Problem;
use super::node::{Key, Node, Place, Value};
use super::suggest::{listed, nearest, suggestion};

/// A value with its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct At<T> {
    pub(crate) place: Place,
    pub(crate) value: T,
}

/// A type of values in a config file.
pub(crate) trait Kind: Sized {
    /// Reads a node; `None` if there was a problem, which is then noted.
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self>;
    /// What may be written.
    fn shape() -> Shape;
}

/// What may be written as a value.
pub(crate) enum Shape {
    Flag,
    Integer {
        least: u64,
        most: u64,
    },
    /// Decimals and all.
    Number {
        least: u64,
        most: u64,
    },
    Numbers(&'static [u16]),
    Text {
        what: &'static str,
        pattern: Option<&'static str>,
    },
    Choice(&'static [Choice]),
    /// Just this word.
    Word(&'static str),
    /// Just `true`.
    True,
    List {
        item: Box<Self>,
        least: usize,
    },
    Map {
        names: &'static str,
        value: Box<Self>,
    },
    Section(&'static Section),
    OneOf(Vec<Self>),
}

/// One of the words of a closed list.
pub(crate) struct Choice {
    pub(crate) word: &'static str,
    pub(crate) doc: &'static str,
}

/// A map with known keys.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) form: Form,
    pub(crate) keys: &'static [KeyRule],
}

/// How many of its keys a section takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Any.
    Keys,
    /// Exactly one.
    OneKey,
}

/// The definition of a key.
pub(crate) struct KeyRule {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) need: Need,
    pub(crate) shape: fn() -> Shape,
}

/// Whether a key must be there, and what holds if it is not.
pub(crate) enum Need {
    Required,
    /// Absent means what the text says.
    Optional(&'static str),
    /// Absent means this value.
    Default(&'static str),
}

/// What is there of a section.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// Where it is.
    pub(crate) place: Place,
    section: &'static Section,
    /// A bit for each of the section's keys, those with bad values included.
    seen: u64,
}

impl Written {
    pub(crate) fn has(&self, key: &str) -> bool {
        let rule = self.section.rule(key);
        rule.is_some_and(|rule| self.seen & 1 << rule != 0)
    }

    /// Notes that a key is there; whether it was not before.
    fn note(&mut self, rule: usize) -> bool {
        let before = self.seen;
        self.seen |= 1 << rule;
        self.seen != before
    }
}

/// Notes the problems.
#[derive(Default)]
pub(crate) struct Decoder {
    pub(crate) problems: Vec<Problem>,
}

impl Decoder {
    /// Notes a problem with its remedy.
    pub(crate) fn problem(
        &mut self,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.push(Problem {
            place,
            message: message.into(),
            help: Some(help.into()),
        });
    }

    /// The remedy for a wrong name. A file with thousands of them gets no more remedies: they cost time, and nobody sees
    /// them.
    pub(crate) fn suggest<'a>(
        &self,
        wrong: &str,
        all: &str,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> String {
        const HELPED: usize = 400;
        if self.problems.len() > HELPED {
            return "look at the errors before this one".into();
        }
        suggestion(wrong, all, names)
    }

    /// Notes that a node is not what it should be.
    pub(crate) fn expected(&mut self, what: &str, node: &Node, help: Option<String>) {
        let message = match node.value {
            Value::Bad => return,
            Value::Null => format!("no value: expected {what}"),
            _ => format!("expected {what}, found {}", node.kind()),
        };
        let help = match node.value {
            Value::Null => Some("write a value, or leave the key out".into()),
            _ => help,
        };
        let place = node.place;
        self.problems.push(Problem {
            place,
            message,
            help,
        });
    }

    /// The entries of a section, after a look at its keys: unknown, twice, missing; and those that are there.
    pub(crate) fn section<'n>(
        &mut self,
        node: &'n Node,
        section: &'static Section,
    ) -> Option<(&'n [(Key, Node)], Written)> {
        let Value::Map(entries) = &node.value else {
            self.expected(
                &format!("a map ({})", section.name),
                node,
                Some(section.usage()),
            );
            return None;
        };
        let mut written = Written {
            place: node.place,
            section,
            seen: 0,
        };
        // Of a file that is right it stays empty, and costs nothing.
        let mut unknown = HashSet::new();
        let mut meant = Vec::new();
        for (key, _) in entries {
            let rule = section.rule(&key.name);
            let is_new = match rule {
                Some(rule) => written.note(rule),
                None => unknown.insert(key.name.as_str()),
            };
            if !is_new {
                self.duplicate(key);
            } else if rule.is_none() {
                let names = section.keys.iter().map(|rule| rule.name);
                meant.extend(nearest(&key.name, names.clone()));
                let help = self.suggest(&key.name, "keys here are", names);
                self.problem(key.place, format!("unknown key `{}`", key.name), help);
            }
        }
        for rule in section.keys {
            // A key that is misspelt is not missing as well.
            let is_there = || written.has(rule.name) || meant.contains(&rule.name);
            if matches!(rule.need, Need::Required) && !is_there() {
                let message = format!("the {} has no `{}`", section.name, rule.name);
                let help = format!("add `{}`: {}", rule.name, rule.summary());
                self.problem(node.place, message, help);
            }
        }
        let count = written.seen.count_ones() as usize + unknown.len();
        if section.form == Form::OneKey && count != 1 {
            let message = format!("a {} has exactly one key", section.name);
            let help = match count {
                0 => section.usage(),
                _ => format!("keep one; {}", section.usage()),
            };
            self.problem(node.place, message, help);
        }
        Some((entries, written))
    }

    pub(crate) fn duplicate(&mut self, key: &Key) {
        let message = format!("the key `{}` is there twice", key.name);
        self.problem(key.place, message, "keep one of them");
    }

    /// The value of a key that may be absent.
    pub(crate) fn optional<T: Kind>(
        &mut self,
        entries: &[(Key, Node)],
        name: &str,
    ) -> Option<At<T>> {
        let (_, node) = entries.iter().find(|(key, _)| key.name == name)?;
        self.value(node)
    }

    /// The value of a key, or its default, which then has the place of the section.
    pub(crate) fn defaulted<T: Kind>(
        &mut self,
        place: Place,
        entries: &[(Key, Node)],
        name: &str,
        default: &str,
    ) -> At<T> {
        self.optional(entries, name).unwrap_or_else(|| {
            let value = Value::Filled(default.to_owned());
            self.value(&Node { place, value })
                .expect("a test decodes every default")
        })
    }

    pub(crate) fn value<T: Kind>(&mut self, node: &Node) -> Option<At<T>> {
        let place = node.place;
        let value = T::decode(node, self)?;
        Some(At { place, value })
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name)
    }
}

impl Section {
    /// The number of a key among its own: they are few, and fit into the bits of a word.
    fn rule(&self, name: &str) -> Option<usize> {
        self.keys.iter().position(|rule| rule.name == name)
    }

    fn usage(&self) -> String {
        let names = self.keys.iter().map(|rule| rule.name);
        match self.form {
            Form::Keys => format!("its keys are {}", listed(names)),
            Form::OneKey => format!("it is one of {}", listed(names)),
        }
    }
}

impl KeyRule {
    /// The first sentence of its documentation.
    fn summary(&self) -> &'static str {
        let doc = self.doc.trim();
        let end = doc.find(". ").unwrap_or(doc.len());
        doc.get(..end).unwrap_or(doc).trim_end_matches('.')
    }
}

/// Declares maps with known keys: every key of the config language is in one such declaration.
///
/// ```text
/// section! {
///     /// What the section is.
///     Timeouts as "timeouts" (Keys) {
///         /// What the key is.
///         connect: Timeout, default "2s";
///         matches as "match": Match, optional "every request";
///     }
/// }
/// ```
/// makes a struct with a field `At<T>` for each key with a default and `Option<At<T>>` for each other.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        $name:ident as $shown:literal ($form:ident) {$(
            $(#[doc = $key_doc:literal])+
            $key:ident $(as $written:literal)?: $kind:ty, $need:ident $($absent:literal)?;
        )+}
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug)]
        pub(crate) struct $name {
            /// Where the section is, and which keys are there, bad values included.
            #[allow(dead_code, reason = "not every section has rules about absent keys")]
            pub(crate) written: Written,
            $($(#[doc = $key_doc])+ pub(crate) $key: section!(@type $need $kind),)+
        }

        impl $name {
            /// The definition.
            pub(crate) const SECTION: &'static Section = &Section {
                name: $shown,
                doc: concat!($($doc),+),
                form: Form::$form,
                keys: &[$(KeyRule {
                    name: section!(@name $key $($written)?),
                    doc: concat!($($key_doc),+),
                    need: section!(@need $need $($absent)?),
                    shape: <$kind as Kind>::shape,
                },)+],
            };
        }

        const _: () = assert!($name::SECTION.keys.len() <= u64::BITS as usize);

        impl Kind for $name {
            fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
                let (entries, written) = decoder.section(node, Self::SECTION)?;
                Some(Self {
                    written,
                    $($key: section!(
                        @read $need $($absent)?, decoder, node.place, entries,
                        section!(@name $key $($written)?)
                    ),)+
                })
            }

            fn shape() -> Shape {
                Shape::Section(Self::SECTION)
            }
        }
    };
    (@name $key:ident) => { stringify!($key) };
    (@name $key:ident $written:literal) => { $written };
    (@type default $kind:ty) => { At<$kind> };
    (@type optional $kind:ty) => { Option<At<$kind>> };
    (@type required $kind:ty) => { Option<At<$kind>> };
    (@need default $text:literal) => { Need::Default($text) };
    (@need optional $text:literal) => { Need::Optional($text) };
    (@need required) => { Need::Required };
    (@read default $text:literal, $decoder:ident, $place:expr, $entries:ident, $name:expr) => {
        $decoder.defaulted($place, $entries, $name, $text)
    };
    (@read optional $text:literal, $decoder:ident, $place:expr, $entries:ident, $name:expr) => {
        $decoder.optional($entries, $name)
    };
    (@read required, $decoder:ident, $place:expr, $entries:ident, $name:expr) => {
        $decoder.optional($entries, $name)
    };
}
pub(crate) use section;

/// Gives an enum the words that stand for its variants.
macro_rules! choice {
    ($($name:ty { $($variant:ident = $word:literal $doc:literal,)+ })+) => {$(
        impl Kind for $name {
            fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
                match decoder.word(node, &[$($word),+])? {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn shape() -> Shape {
                Shape::Choice(&[$(Choice { word: $word, doc: $doc },)+])
            }
        }
    )+};
}
pub(crate) use choice;

impl Decoder {
    /// One of some words.
    pub(crate) fn word<'n>(&mut self, node: &'n Node, words: &[&str]) -> Option<&'n str> {
        let (Value::Text(text) | Value::Filled(text)) = &node.value else {
            let what = format!("one of {}", listed(words.iter().copied()));
            self.expected(&what, node, None);
            return None;
        };
        if words.contains(&text.as_str()) {
            return Some(text);
        }
        let help = suggestion(text, "it is one of", words.iter().copied());
        self.problem(node.place, format!("unknown value `{text}`"), help);
        None
    }
}

/// A section in which nothing is written: its defaults.
pub(crate) fn unwritten<T: Kind>() -> T {
    let (place, value) = (Place(0), Value::Map(Vec::new()));
    T::decode(&Node { place, value }, &mut Decoder::default())
        .expect("a map is all that a section needs to be read")
}
