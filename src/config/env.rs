//! `${NAME}` and `${NAME:-default}` in values.
//!
//! Filled in after YAML is read, so that what a variable holds is never taken for YAML, and before types are
//! decided, so that `workers: ${N:-2}` is a number. `$${` is a plain `${`. Keys are left alone.

use super::error::Problem;
use super::node::{Node, Value};

/// Answers what a variable holds.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Fills in the variables of a tree; what cannot be filled in becomes a problem.
pub(crate) fn fill(node: &mut Node, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Text(text) => {
            if memchr::memchr(b'$', text.as_bytes()).is_none() || !text.contains("${") {
                return;
            }
            match filled(text, lookup) {
                Ok(text) => node.value = Value::Filled(text),
                Err(Wrong { message, help }) => {
                    node.value = Value::Bad;
                    problems.push(Problem {
                        place: node.place,
                        message,
                        help: Some(help),
                    });
                }
            }
        }
        Value::List(items) => {
            for item in items {
                fill(item, lookup, problems);
            }
        }
        Value::Map(entries) => {
            for (_, value) in entries {
                fill(value, lookup, problems);
            }
        }
        Value::Bad
        | Value::Null
        | Value::Flag(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Filled(_) => {}
    }
}

pub(super) struct Wrong {
    message: String,
    help: String,
}

pub(super) fn filled(text: &str, lookup: Lookup<'_>) -> Result<String, Wrong> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = after;
            continue;
        }
        result.push_str(before);
        let Some((inside, after)) = after.split_once('}') else {
            return Err(Wrong {
                message: "`${` without `}`".into(),
                help: "write `${NAME}`; a literal `${` is written `$${`".into(),
            });
        };
        rest = after;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err(Wrong {
                message: format!("`{name}` is not the name of a variable"),
                help: "write `${NAME}` or `${NAME:-default}`; a literal `${` is written `$${`"
                    .into(),
            });
        }
        match (lookup(name), default) {
            // As in a shell, `:-` also stands in for a variable that is empty.
            (Some(value), Some(default)) if value.is_empty() => result.push_str(default),
            (Some(value), _) => result.push_str(&value),
            (None, Some(default)) => result.push_str(default),
            (None, None) => {
                return Err(Wrong {
                    message: format!("the environment variable `{name}` is not set"),
                    help: format!("set it, or write `${{{name}:-default}}`"),
                });
            }
        }
    }
    result.push_str(rest);
    Ok(result)
}

fn is_name(text: &str) -> bool {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !text.is_empty() && text.chars().all(is_word) && !text.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let lookup = |name: &str| match name {
            "A" => Some("a}b: [${B}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let found = filled(text, &lookup).map_err(|wrong| wrong.message);
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn variables_are_filled_in_once() {
        check("${A}", Ok("a}b: [${B}"));
        check("x-${A}-${NO:-1}-$${A}", Ok("x-a}b: [${B}-1-${A}"));
        check("${NO:-}${EMPTY:-e}${EMPTY}$", Ok("e$"));
        check("$NO {x} $$ $${", Ok("$NO {x} $$ ${"));
    }

    #[test]
    fn what_cannot_be_filled_in_is_an_error() {
        check("${NO}", Err("the environment variable `NO` is not set"));
        check("${A", Err("`${` without `}`"));
        check("${1}", Err("`1` is not the name of a variable"));
        check("${}", Err("`` is not the name of a variable"));
    }
}
