//! The reference of the config language, as the Markdown of `docs/reference/config.md`.
//!
//! It follows from `keys`; a test holds the page against it.

use std::fmt::Write;

use super::decode::{Form, KeyRule, Kind, Need, Section, Shape};
use super::keys::{Root, Site};

const HEAD: &str = "\
# Config keys

<!-- Made from the code by `UPDATE=1 cargo test --test reference`; edits here are lost. -->

One YAML file holds the whole config, or more of them where it includes sites. Unknown keys, keys that are there twice and values of the wrong type are errors;
`lockgate check` tells all of them at once.

- Durations are written `250ms`, `5s`, `1m`, `2h`, `1d`; sizes `512B`, `64KiB`, `10MiB`. A bare number is an error where a
  unit is needed.
- `${NAME}` in a value is the variable `NAME` of the environment, `${NAME:-default}` has a default, and `$${` is a
  plain `${`. They are filled in after YAML is read: what a variable holds is always text, or the number or flag that
  stands there alone. Keys have no variables.
- Paths of files are relative to the folder of the file that names them.
- Keys that begin with `danger_` lower security, and are logged at start if they are set.
";

/// The whole page.
pub fn reference() -> String {
    let mut sections: Vec<Place> = Vec::new();
    collect(&Root::shape(), "", &mut sections);
    collect(&Site::shape(), "", &mut sections);
    let mut page = HEAD.to_owned();
    for place in &sections {
        write_section(&mut page, place);
    }
    page
}

/// A section and the paths where it stands.
struct Place {
    section: &'static Section,
    paths: Vec<String>,
}

fn collect(shape: &Shape, path: &str, places: &mut Vec<Place>) {
    match shape {
        Shape::Section(section) => {
            let known = places
                .iter_mut()
                .find(|place| place.section.name == section.name);
            if let Some(known) = known {
                // Of sites too: their parts stand where those of the main file do.
                if !known.paths.iter().any(|known| known == path) {
                    known.paths.push(path.to_owned());
                }
                return;
            }
            let paths = vec![path.to_owned()];
            places.push(Place { section, paths });
            for rule in section.keys {
                let dot = if path.is_empty() { "" } else { "." };
                collect(
                    &(rule.shape)(),
                    &format!("{path}{dot}{}", rule.name),
                    places,
                );
            }
        }
        Shape::List { item, .. } => collect(item, &format!("{path}[]"), places),
        Shape::Map { value, .. } => collect(value, &format!("{path}.<name>"), places),
        Shape::OneOf(shapes) => {
            for shape in shapes {
                collect(shape, path, places);
            }
        }
        Shape::Flag
        | Shape::Integer { .. }
        | Shape::Number { .. }
        | Shape::Numbers(_)
        | Shape::Text { .. }
        | Shape::Choice(_)
        | Shape::Word(_)
        | Shape::True => {}
    }
}

fn write_section(page: &mut String, place: &Place) {
    let section = place.section;
    let paths: Vec<_> = place
        .paths
        .iter()
        .filter(|path| !path.is_empty())
        .map(|path| format!("`{path}`"))
        .collect();
    let at = match paths.as_slice() {
        [] => String::new(),
        paths => format!("At {}. ", paths.join(" and ")),
    };
    let form = match section.form {
        Form::Keys => "",
        Form::OneKey => " A map with exactly one of these keys.",
    };
    let doc = section.doc.trim();
    let mut text = format!("\n## {}\n\n{at}{doc}{form}\n\n", title(section));
    text.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for rule in section.keys {
        text.push_str(&row(rule));
    }
    page.push_str(&text);
}

fn row(rule: &KeyRule) -> String {
    let shape = (rule.shape)();
    let absent = match rule.need {
        Need::Required => "required".into(),
        Need::Optional(absent) => absent.to_owned(),
        Need::Default("") => "empty".into(),
        Need::Default(default) => format!("`{default}`"),
    };
    let mut meaning = rule.doc.trim().to_owned();
    let parts = match &shape {
        Shape::OneOf(parts) => parts.as_slice(),
        shape => std::slice::from_ref(shape),
    };
    for part in parts {
        let Shape::Choice(choices) = part else {
            continue;
        };
        for choice in *choices {
            // Writing to a string does not fail.
            let _ = write!(meaning, " `{}`: {}", choice.word, choice.doc);
        }
    }
    let value = words(&shape);
    format!("| `{}` | {value} | {absent} | {meaning} |\n", rule.name)
}

/// What may be written, in words.
fn words(shape: &Shape) -> String {
    match shape {
        Shape::Flag => "`true` or `false`".into(),
        Shape::True => "`true`".into(),
        Shape::Integer { least, most } => format!("a whole number, {least} to {most}"),
        Shape::Number { least, most } => format!("a number, {least} to {most}"),
        Shape::Numbers(numbers) => {
            let numbers: Vec<_> = numbers.iter().map(u16::to_string).collect();
            numbers.join(", ")
        }
        Shape::Text { what, .. } => (*what).into(),
        Shape::Word(word) => format!("`{word}`"),
        Shape::Choice(choices) => {
            let choices: Vec<_> = choices
                .iter()
                .map(|one| format!("`{}`", one.word))
                .collect();
            choices.join(", ")
        }
        Shape::List { item, least: _ } => format!("a list, each {}", words(item)),
        Shape::Map { names, value } => format!("a map from {names} to {}", words(value)),
        Shape::Section(section) => {
            let anchor = section
                .name
                .to_lowercase()
                .replace('\'', "")
                .replace(' ', "-");
            format!("[{}](#{anchor})", section.name)
        }
        Shape::OneOf(shapes) => {
            let shapes: Vec<_> = shapes.iter().map(words).collect();
            shapes.join(", or ")
        }
    }
}

fn title(section: &Section) -> String {
    let mut letters = section.name.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}
