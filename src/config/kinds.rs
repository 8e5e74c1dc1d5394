//! The kinds that any config language has: flags, whole numbers, texts, lists, maps from names.

use std::hash::Hash;

use foldhash::{HashSet, HashSetExt};

use super::decode::{At, Decoder, Kind, Shape, unwritten};
use super::node::{Node, Value};
use crate::base::units::UnitError;

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
        // A route as it is written is large: a list that grows would move each several times.
        let mut values = Self::with_capacity(items.len());
        values.extend(items.iter().filter_map(|item| decoder.value(item)));
        Some(values)
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

/// Keys in whose place `off` may stand.
pub(crate) trait MayBeOff: Kind {
    /// The key that they stand under.
    const KEY: &'static str;
    /// What to write instead of anything else.
    const HELP: &'static str;
}

/// `off`, or a map.
#[derive(Clone, Debug)]
pub(crate) enum OrOff<T> {
    Off,
    On(T),
}

impl<T: MayBeOff> Kind for OrOff<T> {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        match &node.value {
            Value::Text(text) | Value::Filled(text) if text == "off" => Some(Self::Off),
            Value::Text(_) | Value::Filled(_) | Value::Flag(_) | Value::Integer(_) => {
                let message = format!("`{}` is `off` or a map", T::KEY);
                decoder.problem(node.place, message, T::HELP);
                None
            }
            _ => T::decode(node, decoder).map(Self::On),
        }
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::Word("off"), T::shape()])
    }
}

/// Keys in whose place `true` may stand: all of their defaults.
pub(crate) trait MayBeTrue: Kind {
    /// The key that they stand under.
    const KEY: &'static str;
    /// What to do instead of writing `false`.
    const HELP: &'static str;
}

/// `true`, or a map.
#[derive(Clone, Debug)]
pub(crate) struct OrTrue<T>(pub(crate) Box<T>);

impl<T: MayBeTrue> Kind for OrTrue<T> {
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let keys = match &node.value {
            Value::Flag(true) => Some(unwritten()),
            Value::Filled(text) if text == "true" => Some(unwritten()),
            Value::Flag(false) => {
                let message = format!("`{}` is `true` or a map", T::KEY);
                decoder.problem(node.place, message, T::HELP);
                None
            }
            _ => T::decode(node, decoder),
        };
        keys.map(|keys| Self(Box::new(keys)))
    }

    fn shape() -> Shape {
        Shape::OneOf(vec![Shape::True, T::shape()])
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
        let mut pairs = Vec::with_capacity(entries.len());
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
