//! YAML as it is written: values, and their layout.

/// Columns that a line may have.
const WIDTH: usize = 110;

/// A value of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Text, in quotes where it needs them.
    Text(String),
    /// A number, a flag, a duration or a keyword, which needs none.
    Word(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn word(word: impl Into<String>) -> Self {
        Self::Word(word.into())
    }

    /// A map of these entries.
    pub(super) fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// A whole file: a key of the map a paragraph.
    pub(super) fn file(&self) -> String {
        let mut text = String::new();
        let Self::Map(entries) = self else {
            return text;
        };
        for (key, value) in entries {
            if !text.is_empty() && !matches!(value, Self::Word(_) | Self::Text(_)) {
                text.push('\n');
            }
            entry(&mut text, 0, key, value, true);
        }
        text
    }

    /// All in one line.
    fn flow(&self) -> String {
        let join = |parts: Vec<String>| parts.join(", ");
        match self {
            Self::Text(text) => quoted(text),
            Self::Word(word) => word.clone(),
            Self::List(items) if items.is_empty() => "[]".into(),
            Self::List(items) => format!("[ {} ]", join(items.iter().map(Self::flow).collect())),
            Self::Map(entries) if entries.is_empty() => "{}".into(),
            Self::Map(entries) => {
                let entry =
                    |(key, value): &(String, Self)| format!("{}: {}", name(key), value.flow());
                format!("{{ {} }}", join(entries.iter().map(entry).collect()))
            }
        }
    }

    /// Whether it is short enough to be read in one line.
    fn is_short(&self, column: usize) -> bool {
        match self {
            Self::Text(_) | Self::Word(_) => true,
            Self::List(items) if items.is_empty() => true,
            Self::Map(entries) if entries.is_empty() => true,
            _ => column + self.flow().chars().count() <= WIDTH,
        }
    }
}

/// A key and its value, in as many lines as it takes.
fn entry(text: &mut String, indent: usize, key: &str, value: &Value, is_top: bool) {
    let key = name(key);
    let room = indent + key.len() + 2;
    let is_open = is_top && !matches!(value, Value::Text(_) | Value::Word(_));
    if !is_open && value.is_short(room) {
        *text += &format!("{:indent$}{key}: {}\n", "", value.flow());
        return;
    }
    *text += &format!("{:indent$}{key}:\n", "");
    block(text, indent + 2, value);
}

fn block(text: &mut String, indent: usize, value: &Value) {
    match value {
        Value::List(items) => {
            for item in items {
                match item {
                    Value::Map(entries) if !is_plain(item, indent) => {
                        let mut inner = String::new();
                        for (key, value) in entries {
                            entry(&mut inner, indent + 2, key, value, false);
                        }
                        // The dash stands where the first key is indented.
                        *text += &format!("{:indent$}- {}", "", inner.trim_start());
                    }
                    other => *text += &format!("{:indent$}- {}\n", "", other.flow()),
                }
            }
        }
        Value::Map(entries) => {
            for (key, value) in entries {
                entry(text, indent, key, value, false);
            }
        }
        other => *text += &format!("{:indent$}{}\n", "", other.flow()),
    }
}

/// Whether an item of a list is one line: short, and no more than a map of plain values.
fn is_plain(item: &Value, indent: usize) -> bool {
    let is_simple = |value: &Value| matches!(value, Value::Text(_) | Value::Word(_));
    let is_flat = match item {
        Value::Map(entries) => entries.iter().all(|(_, value)| is_simple(value)),
        _ => true,
    };
    is_flat && item.is_short(indent + 2)
}

/// A key: quoted where it is no plain name.
fn name(key: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_safe =
        key.starts_with(|first: char| first.is_ascii_alphabetic()) && key.bytes().all(is_plain);
    if is_safe && !is_special(key) {
        return key.to_owned();
    }
    in_quotes(key)
}

/// Words that YAML takes for something else than text.
fn is_special(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    matches!(
        word.as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
    )
}

fn quoted(text: &str) -> String {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
    let is_safe = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(is_plain);
    if is_safe && !is_special(text) {
        return text.to_owned();
    }
    in_quotes(text)
}

/// In double quotes. What would be a variable of the environment is made a plain text.
fn in_quotes(text: &str) -> String {
    let text = text.replace("${", "$${");
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            control if control.is_control() || control == '\u{feff}' => {
                out += &format!("\\U{:08X}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_where_yaml_would_take_it_for_something_else() {
        for (text, expected) in [
            ("web", "web"),
            ("/healthz", "/healthz"),
            ("no", "\"no\""),
            ("80", "\"80\""),
            ("a: b", "\"a: b\""),
            ("*.example.com", "\"*.example.com\""),
            ("say \"${HOME}\"\n", "\"say \\\"$${HOME}\\\"\\n\""),
        ] {
            assert_eq!(Value::text(text).flow(), expected);
        }
    }

    #[test]
    fn what_is_short_is_one_line() {
        let endpoint = Value::map([
            ("address", Value::text("10.0.0.1:80")),
            ("weight", Value::word("2")),
        ]);
        let pool = Value::map([("endpoints", Value::List(vec![endpoint]))]);
        let pools = Value::map([("pools", Value::map([("web", pool)]))]);
        let expected =
            "pools:\n  web: { endpoints: [ { address: \"10.0.0.1:80\", weight: 2 } ] }\n";
        assert_eq!(pools.file(), expected);
    }
}
