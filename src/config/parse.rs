//! YAML text to a tree of `Node`s, and places in that tree to lines and columns. The only file that knows YAML.
//!
//! The app and the control plane call [`parse`]. The parser behind it tells a position only with an error. So the tree is built by a walk that
//! numbers what it meets, and `locate` walks the text again and raises an error at the number it looks for:
//! the position is exact, and a file without errors pays nothing for it. YAML's aliases are followed; the memory of
//! the tree is bounded, so that aliases of aliases of aliases end in an error.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::check;
use super::decode::{Decoder, Kind};
use super::env;
use super::error::{ConfigError, SIZE_LIMIT, Source};
use super::keys::Root;
use super::node::{Key, Node, Place, Value};
use super::{Admin, Config};

/// Bytes a tree may take; a text within [`SIZE_LIMIT`] stays below unless it repeats itself by aliases.
const TREE_LIMIT: usize = 512 << 20;

/// Brackets that may be open at a time. The parser takes long for what is nested deep, and refuses it only then; this
/// is far beyond what it takes, since brackets in strings and comments count too.
const UNCLOSED_LIMIT: usize = 10_000;

/// Reads, decodes and checks a config; `env` answers what a variable of the environment holds.
///
/// # Errors
/// Everything that is wrong with the text, sorted by place; never an empty list.
pub fn parse(
    source: &Source,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Vec<ConfigError>> {
    whole(source, env, SHORTEST, |tree, decoder| {
        let root = Root::decode(tree, decoder)?;
        check::check(&root, &source.file, decoder)
    })
}

/// Reads a file by `read`, which notes what is wrong with it; `example` is shown to whoever wrote nothing.
pub(super) fn whole<T>(
    source: &Source,
    env: env::Lookup<'_>,
    example: &str,
    read_tree: impl FnOnce(&Node, &mut Decoder) -> Option<T>,
) -> Result<T, Vec<ConfigError>> {
    let refuse = |offset, message: String, help: &str| {
        let help = Some(help.to_owned());
        Err(vec![source.syntax_error(SyntaxError {
            offset,
            message,
            help,
        })])
    };
    if source.text.len() > SIZE_LIMIT {
        let message = format!("the file has more than {SIZE_LIMIT} bytes");
        return refuse(
            0,
            message,
            "generate less: fewer routes, or routes that match more",
        );
    }
    let mut tree = read(&source.text).map_err(|error| vec![source.syntax_error(error)])?;
    if tree.value == Value::Null {
        return refuse(0, "the file is empty".into(), example);
    }
    let mut decoder = Decoder::default();
    env::fill(&mut tree, env, &mut decoder.problems);
    match read_tree(&tree, &mut decoder) {
        Some(read) if decoder.problems.is_empty() => Ok(read),
        _ if decoder.problems.is_empty() => refuse(0, "the file makes no config".into(), example),
        _ => Err(source.errors(&tree, decoder.problems)),
    }
}

/// What a config says of the control socket, whatever else is wrong with it; `None` if that cannot be told.
///
/// A command that is to say what is wrong with a reload has to find the process first.
pub fn admin_of(source: &Source, env: &dyn Fn(&str) -> Option<String>) -> Option<Admin> {
    let mut tree = read(&source.text).ok()?;
    let Value::Map(entries) = &mut tree.value else {
        return None;
    };
    entries.retain(|(key, _)| key.name == "admin");
    let mut decoder = Decoder::default();
    env::fill(&mut tree, env, &mut decoder.problems);
    let root = Root::decode(&tree, &mut decoder)?;
    let is_unreadable = root.admin.is_none() && root.written.has("admin");
    (!is_unreadable).then(|| check::admin(root.admin.as_ref(), &source.file))
}

/// The shortest useful file.
const SHORTEST: &str = "the shortest useful file has a listener, a route and a pool:\n\
    listeners: [{ address: \":8080\" }]\n\
    routes: [{ pool: app }]\n\
    pools: { app: { endpoints: [\"127.0.0.1:3000\"] } }";

/// Where the brackets of a text have outrun [`UNCLOSED_LIMIT`], strings and comments included.
fn unclosed(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let mut bytes = text.bytes().enumerate();
    bytes.find_map(|(offset, byte)| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        (open > UNCLOSED_LIMIT).then_some(offset)
    })
}

/// Where something begins, and how much of the line it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Bytes before it in the text.
    pub(crate) offset: usize,
    /// The bytes that a scalar takes in the text, quotes included, where the text shows it as it is.
    pub(crate) length: Option<usize>,
}

/// Why a text is not a tree. There is just one such error: what follows it is not understood.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) offset: usize,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Reads one YAML document; an empty text is [`Value::Null`]. The text has no byte-order mark.
pub(crate) fn read(text: &str) -> Result<Node, SyntaxError> {
    if let Some(offset) = unclosed(text) {
        return Err(SyntaxError {
            offset,
            message: NESTED_TOO_DEEP.message.into(),
            help: Some(NESTED_TOO_DEEP.help.into()),
        });
    }
    let mut walk = Walk::new(None);
    let deserializer = serde_yaml::Deserializer::from_str(text);
    match NodeSeed(&mut walk).deserialize(deserializer) {
        Ok(node) => Ok(node),
        Err(error) => Err(syntax_error(text, &error, walk.refused)),
    }
}

/// Finds a place of the tree that [`read`] made of the same text.
pub(crate) fn locate(text: &str, place: Place) -> Option<Spot> {
    let mut walk = Walk::new(Some(place));
    let deserializer = serde_yaml::Deserializer::from_str(text);
    let error = NodeSeed(&mut walk).deserialize(deserializer).err()?;
    if !walk.found {
        return None;
    }
    let offset = offset_of(text, error.location()?.index());
    let length = walk
        .scalar
        .and_then(|scalar| shown_length(text.get(offset..)?, &scalar));
    Some(Spot { offset, length })
}

/// The bytes that a scalar takes at the front of a text, if no escape or fold makes it look different there.
fn shown_length(text: &str, scalar: &str) -> Option<usize> {
    if let Some(quoted) = text.strip_prefix(['"', '\'']) {
        return quoted.starts_with(scalar).then_some(scalar.len() + 2);
    }
    (!scalar.is_empty() && text.starts_with(scalar)).then_some(scalar.len())
}

/// The parser counts bytes, though its promise does not say so: what it says is brought to a character's start.
fn offset_of(text: &str, index: usize) -> usize {
    text.floor_char_boundary(index)
}

fn syntax_error(text: &str, error: &serde_yaml::Error, refused: Option<Refusal>) -> SyntaxError {
    let offset = error
        .location()
        .map(|location| offset_of(text, location.index()));
    if let Some(refusal) = refused {
        return SyntaxError {
            offset: offset.unwrap_or(0),
            message: refusal.message.into(),
            help: Some(refusal.help.into()),
        };
    }
    let said = error.to_string();
    if said.contains("more than one document") {
        return SyntaxError {
            offset: second_document(text),
            message: "a config file is one YAML document".into(),
            help: Some("remove the `---` and what follows it".into()),
        };
    }
    if said.starts_with("recursion limit") {
        return SyntaxError {
            offset: offset.unwrap_or(0),
            message: NESTED_TOO_DEEP.message.into(),
            help: Some(NESTED_TOO_DEEP.help.into()),
        };
    }
    if said.starts_with("repetition limit") {
        return SyntaxError {
            offset: offset.unwrap_or(0),
            message: TOO_MANY_ALIASES.message.into(),
            help: Some(TOO_MANY_ALIASES.help.into()),
        };
    }
    let (problem, context) = split_said(&said);
    // Bytes that may not be in YAML at all are told with a position of their own.
    let offset = match said.rsplit_once(" at position ") {
        Some((_, index)) => offset_of(text, index.parse().unwrap_or(0)),
        None => offset.unwrap_or(text.len()),
    };
    let help = if text.get(offset..).is_some_and(|at| at.starts_with('\t')) {
        Some("indent with spaces: YAML does not allow tabs there".into())
    } else {
        context
    };
    SyntaxError {
        offset,
        message: format!("not YAML: {problem}"),
        help,
    }
}

/// Splits `did not find expected key at line 3 column 1, while parsing a block mapping at line 1 column 1`; the first
/// position is that of the error itself.
fn split_said(said: &str) -> (String, Option<String>) {
    let (problem, context) = match said.split_once(", while ") {
        Some((problem, context)) => (problem, Some(format!("this was while {context}"))),
        None => (said, None),
    };
    let problem = match problem
        .rfind(" at line ")
        .or(problem.rfind(" at position "))
    {
        Some(end) => problem.get(..end).unwrap_or(problem),
        None => problem,
    };
    (problem.to_owned(), context)
}

/// Where the second document of a text begins.
fn second_document(text: &str) -> usize {
    serde_yaml::Deserializer::from_str(text)
        .nth(1)
        .and_then(|document| {
            let mut walk = Walk::new(Some(Place(0)));
            NodeSeed(&mut walk).deserialize(document).err()
        })
        .and_then(|error| error.location())
        .map_or(text.len(), |location| offset_of(text, location.index()))
}

/// What we refuse though YAML allows it.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    message: &'static str,
    help: &'static str,
}

const TOO_MANY_ALIASES: Refusal = Refusal {
    message: "the aliases of this file repeat too much",
    help: "write the parts out, or repeat fewer of them",
};

const NESTED_TOO_DEEP: Refusal = Refusal {
    message: "nested too deep",
    help: "a config is at most 128 levels deep",
};

const TAG: Refusal = Refusal {
    message: "YAML tags (`!name`) are not used here",
    help: "put the text in quotes if it begins with `!`",
};

const KEY_IS_NO_TEXT: Refusal = Refusal {
    message: "a key must be text",
    help: "a text that begins with `{` or `[` needs quotes, and so does `{{…}}` of a template",
};

/// The state of one walk over a text.
struct Walk {
    next: u32,
    budget: usize,
    target: Option<Place>,
    found: bool,
    /// The text of the scalar that was found.
    scalar: Option<String>,
    refused: Option<Refusal>,
}

impl Walk {
    fn new(target: Option<Place>) -> Self {
        Self {
            next: 0,
            budget: TREE_LIMIT,
            target,
            found: false,
            scalar: None,
            refused: None,
        }
    }

    /// Numbers a node or key that is about to be read; an error at the place that is looked for.
    fn enter<E: de::Error>(&mut self, scalar: Option<&str>) -> Result<Place, E> {
        let place = Place(self.next);
        if self.target == Some(place) {
            self.found = true;
            self.scalar = scalar.map(str::to_owned);
            return Err(E::custom("found"));
        }
        let cost = size_of::<Node>() + scalar.map_or(0, str::len);
        self.budget = match self.budget.checked_sub(cost) {
            Some(budget) => budget,
            None => return Err(self.refuse(TOO_MANY_ALIASES)),
        };
        self.next += 1;
        Ok(place)
    }

    fn refuse<E: de::Error>(&mut self, refusal: Refusal) -> E {
        self.refused = Some(refusal);
        E::custom(refusal.message)
    }
}

struct NodeSeed<'a>(&'a mut Walk);

impl NodeSeed<'_> {
    fn leaf<E: de::Error>(self, value: Value) -> Result<Node, E> {
        let place = self.0.enter(None)?;
        Ok(Node { place, value })
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        self.leaf(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        self.leaf(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        self.leaf(Value::Flag(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        self.leaf(Value::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        self.leaf(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Node, E> {
        self.leaf(Value::Float(value as f64))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Node, E> {
        self.leaf(Value::Float(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        self.leaf(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        let place = self.0.enter(Some(text))?;
        let value = Value::Text(text.to_owned());
        Ok(Node { place, value })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let place = self.0.enter(None)?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(NodeSeed(self.0))? {
            items.push(item);
        }
        let value = Value::List(items);
        Ok(Node { place, value })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let place = self.0.enter(None)?;
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(KeySeed(self.0))? {
            entries.push((key, access.next_value_seed(NodeSeed(self.0))?));
        }
        let value = Value::Map(entries);
        Ok(Node { place, value })
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(self.0.refuse(TAG))
    }
}

/// A key is taken as it is written, so that `80:` and `on:` are the texts they look like.
struct KeySeed<'a>(&'a mut Walk);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        self.0.refused = Some(KEY_IS_NO_TEXT);
        let walk = self.0;
        let key = deserializer.deserialize_str(KeySeed(walk))?;
        walk.refused = None;
        Ok(key)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = Key;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
        self.0.refused = None;
        let place = self.0.enter(Some(text))?;
        let name = text.to_owned();
        Ok(Key { place, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of a text, as the lines of text they begin.
    fn check(text: &str, path: &str, expected: &str) {
        let tree = read(text).unwrap();
        let spot = locate(text, tree.find(path)).unwrap();
        let found = &text[spot.offset..];
        assert!(
            found.starts_with(expected),
            "{path}: {found:?} is not {expected:?}"
        );
    }

    #[test]
    fn places_are_exact_in_block_and_flow_style() {
        let text = "a:\n  - b: 'ö'\n    c: { d: 1, \"e\": [ x, {f: yes please} ] }\n  -\n    g: |\n      text\nh: ~\n";
        check(text, "a", "- b");
        check(text, "a[0]", "b: 'ö'");
        check(text, "a[0].b", "'ö'");
        check(text, "a[0].c", "{ d: 1");
        check(text, "a[0].c.d", "1, ");
        check(text, "a[0].c.e", "[ x");
        check(text, "a[0].c.e[0]", "x, ");
        check(text, "a[0].c.e[1].f", "yes please}");
        check(text, "a[1].g", "|\n");
        check(text, "h", "~\n");
        check(text, "h.not.there", "~\n");
        check(text, "a[7]", "- b");
    }

    #[test]
    fn keys_have_places_of_their_own() {
        let text = "# äöü\na: { \"b c\": 1 }\r\nd: 2\r\n";
        let tree = read(text).unwrap();
        let Value::Map(entries) = &tree.value else {
            unreachable!()
        };
        let d = locate(text, entries[1].0.place).unwrap();
        assert_eq!(&text[d.offset..], "d: 2\r\n");
        assert_eq!(d.length, Some(1));
        let Value::Map(inner) = &entries[0].1.value else {
            unreachable!()
        };
        let b = locate(text, inner[0].0.place).unwrap();
        assert!(text[b.offset..].starts_with("\"b c\""));
    }

    #[test]
    fn a_place_behind_an_alias_is_where_the_anchor_is() {
        let text = "a: &x { b: 1 }\nc: *x\nd: 2\n";
        check(text, "c.b", "1 }");
        check(text, "d", "2");
        assert_eq!(
            read(text).unwrap().path_of(read(text).unwrap().find("c.b")),
            "c.b"
        );
    }

    #[test]
    fn a_key_with_dots_is_found() {
        check("a: { b: 1, b.c: { d: 2 } }", "a.b.c.d", "2 }");
    }

    #[test]
    fn repeated_aliases_end_in_an_error_and_not_in_memory() {
        let mut text = String::from("a0: &a0 [x]\n");
        for level in 1..40 {
            let before = level - 1;
            text.push_str(&format!(
                "a{level}: &a{level} [*a{before}, *a{before}, *a{before}]\n"
            ));
        }
        let error = read(&text).unwrap_err();
        assert_eq!(error.message, TOO_MANY_ALIASES.message);
    }

    #[test]
    fn deep_nesting_is_an_error() {
        for text in ["[".repeat(200), "[".repeat(1_000_000), "- ".repeat(200)] {
            let error = read(&text).unwrap_err();
            assert_eq!(error.message, NESTED_TOO_DEEP.message);
        }
    }
}
