//! What a config text says, before anybody asks whether it makes sense: lists, maps and scalars.
//!
//! `parse` builds the tree, `env` fills in variables, `decode` reads it. Every node and every key of a map has a
//! [`Place`], its number in reading order; `parse` finds the line and column of a place, [`Node::path_of`] its
//! path. Problems carry a place, so that nothing is looked up for a file that is right.

/// The number of a node or key in reading order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(pub(crate) u32);

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A key of a map with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A problem is reported already; whoever reads this stays silent.
    Bad,
    Null,
    Flag(bool),
    Integer(i64),
    /// Any other number.
    Float(f64),
    Text(String),
    /// A text with variables filled in: it may stand where a number or flag is wanted.
    Filled(String),
    List(Vec<Node>),
    /// In the order of the file, duplicates included.
    Map(Vec<(Key, Node)>),
}

impl Node {
    /// What it is, in the words of an error message.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Bad | Value::Null => "nothing",
            Value::Flag(_) => "true or false",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) | Value::Filled(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The value of a key, if this is a map that has it.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        let (_, value) = entries.iter().find(|(key, _)| key.name == name)?;
        Some(value)
    }

    /// The path of the node or key at a place, as an operator writes it: `pools.api.endpoints[2].address`.
    pub(crate) fn path_of(&self, place: Place) -> String {
        let mut path = String::new();
        let mut node = self;
        loop {
            match &node.value {
                Value::List(items) => {
                    let after = items.partition_point(|item| item.place <= place);
                    let Some((index, item)) = after
                        .checked_sub(1)
                        .and_then(|index| Some((index, items.get(index)?)))
                    else {
                        return path;
                    };
                    path.push_str(&format!("[{index}]"));
                    node = item;
                }
                Value::Map(entries) => {
                    let after = entries.partition_point(|(key, _)| key.place <= place);
                    let Some((key, value)) =
                        after.checked_sub(1).and_then(|index| entries.get(index))
                    else {
                        return path;
                    };
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&key.name);
                    if place < value.place {
                        return path;
                    }
                    node = value;
                }
                Value::Bad
                | Value::Null
                | Value::Flag(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Text(_)
                | Value::Filled(_) => return path,
            }
        }
    }

    /// The place of a path, or of the deepest part of it that is there.
    ///
    /// Keys may hold dots and brackets (`pools.api.v2`): of the keys that fit, the longest is meant.
    pub(crate) fn find(&self, path: &str) -> Place {
        let mut node = self;
        let mut rest = path;
        loop {
            let step = match &node.value {
                Value::List(items) => rest.strip_prefix('[').and_then(|tail| {
                    let (index, tail) = tail.split_once(']')?;
                    Some((items.get(index.parse::<usize>().ok()?)?, tail))
                }),
                Value::Map(entries) => {
                    let named = rest.strip_prefix('.').unwrap_or(rest);
                    entries
                        .iter()
                        .filter_map(|(key, value)| {
                            let tail = named.strip_prefix(key.name.as_str())?;
                            let ends = tail.is_empty() || tail.starts_with(['.', '[']);
                            ends.then_some((value, tail))
                        })
                        .min_by_key(|(_, tail)| tail.len())
                }
                Value::Bad
                | Value::Null
                | Value::Flag(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Text(_)
                | Value::Filled(_) => None,
            };
            match step {
                Some((next, tail)) => (node, rest) = (next, tail),
                None => return node.place,
            }
        }
    }
}
