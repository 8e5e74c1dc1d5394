//! From nodes to values, by the one definition that every key has.
//!
//! A [`Kind`] is a type that a value can have: it reads a node, and it tells its [`Shape`] to the schema and the
//! reference. `section!` makes a kind of a map with known keys, in `keys`. Reading never stops at a problem: it
//! notes the problem and goes on.

use std::collections::HashSet;
use std::hash::Hash;

use super::error::Problem;
use super::node::{Key, Node, Place, Value};
use crate::base::units::UnitError;

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
        item: Box<Shape>,
        least: usize,
    },
    Map {
        names: &'static str,
        value: Box<Shape>,
    },
    Section(&'static Section),
    OneOf(Vec<Shape>),
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
    /// The keys, those with bad values included.
    pub(crate) keys: Vec<&'static str>,
}

impl Written {
    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.contains(&key)
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
        section: &Section,
    ) -> Option<(&'n [(Key, Node)], Written)> {
        let Value::Map(entries) = &node.value else {
            self.expected(
                &format!("a map ({})", section.name),
                node,
                Some(section.usage()),
            );
            return None;
        };
        let mut seen = HashSet::new();
        let mut meant = Vec::new();
        for (key, _) in entries {
            if !seen.insert(key.name.as_str()) {
                self.duplicate(key);
            } else if !section.keys.iter().any(|rule| rule.name == key.name) {
                let names = section.keys.iter().map(|rule| rule.name);
                meant.extend(nearest(&key.name, names.clone()));
                let help = suggestion(&key.name, "keys here are", names);
                self.problem(key.place, format!("unknown key `{}`", key.name), help);
            }
        }
        for rule in section.keys {
            // A key that is misspelt is not missing as well.
            let is_there = seen.contains(rule.name) || meant.contains(&rule.name);
            if matches!(rule.need, Need::Required) && !is_there {
                let message = format!("the {} has no `{}`", section.name, rule.name);
                let help = format!("add `{}`: {}", rule.name, rule.summary());
                self.problem(node.place, message, help);
            }
        }
        if section.form == Form::OneKey && seen.len() != 1 {
            let message = format!("a {} has exactly one key", section.name);
            let help = match seen.len() {
                0 => section.usage(),
                _ => format!("keep one; {}", section.usage()),
            };
            self.problem(node.place, message, help);
        }
        let names = section.keys.iter().map(|rule| rule.name);
        let written = Written {
            place: node.place,
            keys: names.filter(|name| seen.contains(name)).collect(),
        };
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

impl Section {
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
            pub(crate) const SECTION: &Section = &Section {
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

/// A list, perhaps empty.
impl<T: Kind> Kind for Vec<At<T>> {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let Value::List(items) = &node.value else {
            decoder.expected(
                "a list",
                node,
                Some("write each item on a line of its own after `- `".into()),
            );
            return None;
        };
        Some(
            items
                .iter()
                .filter_map(|item| decoder.value(item))
                .collect(),
        )
    }

    fn shape() -> Shape {
        Shape::List {
            item: Box::new(T::shape()),
            least: 0,
        }
    }
}

/// A list of at least one.
#[derive(Clone, Debug)]
pub(crate) struct NonEmpty<T>(pub(crate) Vec<At<T>>);

impl<T: Kind> Kind for NonEmpty<T> {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            decoder.problem(
                node.place,
                "the list is empty",
                "at least one item is needed",
            );
            return None;
        }
        Vec::decode(node, decoder).map(Self)
    }

    fn shape() -> Shape {
        Shape::List {
            item: Box::new(T::shape()),
            least: 1,
        }
    }
}

/// One, or a list of at least one.
#[derive(Clone, Debug)]
pub(crate) struct OneOrMore<T>(pub(crate) Vec<At<T>>);

impl<T: Kind> Kind for OneOrMore<T> {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match node.value {
            Value::List(_) => NonEmpty::decode(node, decoder).map(|NonEmpty(items)| Self(items)),
            _ => Some(Self(vec![decoder.value(node)?])),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![T::shape(), NonEmpty::<T>::shape()])
    }
}

/// A map whose keys are names, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Named<N, T>(pub(crate) Vec<(At<N>, Option<At<T>>)>);

impl<N: Text + Eq + Hash + Clone, T: Kind> Kind for Named<N, T> {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            decoder.expected(
                &format!("a map from {} to {}", N::WHAT, "its value"),
                node,
                None,
            );
            return None;
        };
        let mut seen = HashSet::new();
        let mut pairs = Vec::new();
        for (key, value) in entries {
            let value = decoder.value(value);
            let name = match N::read(&key.name) {
                Ok(name) => name,
                Err(wrong) => {
                    decoder.problem(key.place, wrong.message, wrong.help);
                    continue;
                }
            };
            if !seen.insert(name.clone()) {
                decoder.duplicate(key);
            }
            let place = key.place;
            pairs.push((At { place, value: name }, value));
        }
        Some(Self(pairs))
    }

    fn shape() -> Shape {
        Shape::Map {
            names: N::WHAT,
            value: Box::new(T::shape()),
        }
    }
}

/// A kind that is written as text.
pub(crate) trait Text: Sized {
    /// What it is, in the words of an error message: `a duration`.
    const WHAT: &'static str;
    /// The unit that a bare number most likely lacks.
    const UNIT: Option<(&'static str, UnitError)> = None;
    /// A regular expression for editors.
    const PATTERN: Option<&'static str> = None;
    /// Reads the text.
    fn read(text: &str) -> Result<Self, Wrong>;
    /// What to write instead of a bare number.
    fn instead_of(number: i64) -> String {
        format!("put it in quotes: \"{number}\"")
    }
}

/// Why a text is not what it should be.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) help: String,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

impl<T: Text> Kind for T {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let help = match &node.value {
            Value::Text(text) | Value::Filled(text) => match T::read(text) {
                Ok(value) => return Some(value),
                Err(wrong) => {
                    decoder.problem(node.place, wrong.message, wrong.help);
                    return None;
                }
            },
            Value::Integer(number) => match T::UNIT {
                Some((unit, error)) => {
                    let message = format!("`{number}` has no unit: expected {}", T::WHAT);
                    decoder.problem(
                        node.place,
                        message,
                        format!("write `{number}{unit}`: {error}"),
                    );
                    return None;
                }
                None => Some(T::instead_of(*number)),
            },
            Value::Flag(flag) => Some(format!("put it in quotes: \"{flag}\"")),
            Value::Float(_) => Some("put it in quotes".into()),
            Value::Bad | Value::Null | Value::List(_) | Value::Map(_) => None,
        };
        decoder.expected(T::WHAT, node, help);
        None
    }

    fn shape() -> Shape {
        Shape::Text {
            what: T::WHAT,
            pattern: T::PATTERN,
        }
    }
}

impl Kind for bool {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match &node.value {
            Value::Flag(flag) => return Some(*flag),
            Value::Filled(text) if text == "true" => return Some(true),
            Value::Filled(text) if text == "false" => return Some(false),
            _ => {}
        }
        let is_flag = matches!(&node.value, Value::Text(text) if text == "true" || text == "false");
        let help = is_flag.then(|| "write it without quotes".into());
        decoder.expected("true or false", node, help);
        None
    }

    fn shape() -> Shape {
        Shape::Flag
    }
}

/// A whole number between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Count<const LEAST: u64, const MOST: u64>(pub(crate) u64);

impl<const LEAST: u64, const MOST: u64> Kind for Count<LEAST, MOST> {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let number = match &node.value {
            Value::Integer(number) => Some(*number),
            Value::Filled(text) => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            if let Value::Float(_) = node.value {
                let help = format!("write a whole number, {LEAST} to {MOST}");
                decoder.problem(node.place, "not a whole number, or a huge one", help);
                return None;
            }
            let is_number = matches!(&node.value, Value::Text(text) if text.parse::<i64>().is_ok());
            let help = is_number.then(|| "write it without quotes".into());
            decoder.expected(&format!("a whole number, {LEAST} to {MOST}"), node, help);
            return None;
        };
        match u64::try_from(number) {
            Ok(count) if (LEAST..=MOST).contains(&count) => Some(Self(count)),
            _ => {
                let message = format!("{number} is out of bounds");
                decoder.problem(
                    node.place,
                    message,
                    format!("the bounds are {LEAST} and {MOST}"),
                );
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Integer {
            least: LEAST,
            most: MOST,
        }
    }
}

/// A section in which nothing is written: its defaults.
pub(crate) fn unwritten<T: Kind>() -> T {
    let (place, value) = (Place(0), Value::Map(Vec::new()));
    T::decode(&Node { place, value }, &mut Decoder::default())
        .expect("a map is all that a section needs to be read")
}

/// `` `a`, `b` and 3 more ``.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<_> = names.collect();
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// What was meant, if one of the names is close; else all of them.
pub(crate) fn suggestion<'a>(
    wrong: &str,
    all: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> String {
    match nearest(wrong, names.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{all} {}", listed(names)),
    }
}

/// The name that is close to a wrong one, if there is one.
fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Far more names than that are not read by anybody, and are not worth the time.
    const COMPARED: usize = 1000;
    let (distance, name) = names
        .take(COMPARED)
        .map(|name| (distance(wrong, name), name))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.len() / 3).max(1)).then_some(name)
}

/// How many letters must be changed, put in, taken out or swapped with their neighbour; capped for long words.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > LONGEST || b.len() > LONGEST || a.len().abs_diff(b.len()) > LONGEST / 3 {
        return usize::MAX;
    }
    // Rows of the table of distances between prefixes: the one before the last, the last, this one.
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(older[j - 1] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found() {
        let names = ["health_check", "endpoints", "balance"];
        let check = |wrong| suggestion(wrong, "keys are", names.into_iter());
        assert_eq!(check("heath_check"), "did you mean `health_check`?");
        assert_eq!(check("enpdoints"), "did you mean `endpoints`?");
        assert_eq!(
            check("weight"),
            "keys are `health_check`, `endpoints`, `balance`"
        );
        assert_eq!(check(""), "keys are `health_check`, `endpoints`, `balance`");
    }
}
