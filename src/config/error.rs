//! What is wrong with a config: where, what, and what to write instead.
//!
//! `parse` and the control plane make [`ConfigError`]s through a [`Source`]; `check` on the command line shows them,
//! as [`render`] for people and [`to_json`] for machines.

use std::fmt;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::node::{Node, Place};
use super::parse;

/// Bytes a config file may have; a hundred thousand routes fit well.
pub const SIZE_LIMIT: usize = 16 << 20;

/// Errors told of one file; the last one counts the others.
const ERRORS_LIMIT: usize = 100;

/// Bytes read to find the places of errors, each by a walk of its own, so that telling them takes a second at most.
const LOCATE_LIMIT: usize = 32 << 20;

/// Bytes of a line beyond which it is not shown.
const EXCERPT_LIMIT: usize = 4096;

/// Characters of a message, which may quote what was written.
const MESSAGE_LIMIT: usize = 400;

/// One thing wrong with a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The place as an operator would write it: `pools.api.endpoints[2].address`; empty for the file as a whole.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// The line itself, for the caret.
    excerpt: Option<Box<Excerpt>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    /// What the carets stand under, as bytes of the line.
    start: usize,
    end: usize,
}

impl fmt::Display for ConfigError {
    /// One line, for a log.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line, column) = (self.file.display(), self.line, self.column);
        write!(out, "{file}:{line}:{column}: {}", self.message)?;
        match &self.help {
            // Some show an example, which has lines.
            Some(help) => write!(out, "; {}", help.replace('\n', " ")),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// A problem at a place of the tree, before anybody looked where that is.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// A config text and the file it is from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file: paths in the text are relative to its folder.
    pub file: PathBuf,
    /// The text, without byte-order mark.
    pub text: String,
}

impl Source {
    /// A source; reads nothing.
    pub fn new(file: impl Into<PathBuf>, text: &str) -> Self {
        Self {
            file: file.into(),
            text: text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
        }
    }

    /// Whether both are the same text of the same file.
    pub fn is_same(&self, other: &Self) -> bool {
        self.file == other.file && self.text == other.text
    }

    /// A source of a file's bytes.
    ///
    /// # Errors
    /// Bytes that are not UTF-8.
    pub fn from_bytes(file: impl Into<PathBuf>, bytes: &[u8]) -> Result<Self, ConfigError> {
        let error = match std::str::from_utf8(bytes) {
            Ok(text) => return Ok(Self::new(file, text)),
            Err(error) => error,
        };
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let source = Self::new(file, &String::from_utf8_lossy(good));
        let mut error = source.error(source.text.len(), None, "the file is not UTF-8");
        error.help = Some("save it as UTF-8; config files are text".into());
        Err(error)
    }

    /// An error at a path of the config, or at the deepest part of it that is written in the text.
    pub fn error_at(&self, path: &str, message: &str, help: Option<&str>) -> ConfigError {
        let spot = match parse::read(&self.text) {
            Ok(tree) => parse::locate(&self.text, tree.find(path)),
            Err(_) => None,
        };
        let offset = spot.map_or(0, |spot| spot.offset);
        let length = spot.and_then(|spot| spot.length);
        ConfigError {
            path: path.to_owned(),
            help: help.map(str::to_owned),
            ..self.error(offset, length, message)
        }
    }

    /// The error of a text that is no tree.
    pub(crate) fn syntax_error(&self, error: parse::SyntaxError) -> ConfigError {
        ConfigError {
            help: error.help,
            ..self.error(error.offset, None, &error.message)
        }
    }

    /// Gives problems their places, sorted by them.
    pub(crate) fn errors(&self, tree: &Node, mut problems: Vec<Problem>) -> Vec<ConfigError> {
        problems.sort_by_key(|problem| problem.place);
        let shown = (LOCATE_LIMIT / self.text.len().max(1)).clamp(1, ERRORS_LIMIT);
        let left_off = problems.len().saturating_sub(shown);
        problems.truncate(shown + 1);
        if left_off > 0
            && let Some(last) = problems.last_mut()
        {
            last.help = None;
            last.message = match left_off {
                1 => "there is one more error, here".into(),
                _ => format!("there are {left_off} more errors, from here on"),
            };
        }
        let mut errors: Vec<_> = problems
            .into_iter()
            .map(|problem| {
                let spot = parse::locate(&self.text, problem.place);
                let offset = spot.map_or(0, |spot| spot.offset);
                let length = spot.and_then(|spot| spot.length);
                ConfigError {
                    path: tree.path_of(problem.place),
                    help: problem.help,
                    ..self.error(offset, length, &problem.message)
                }
            })
            .collect();
        // Aliases stand where their anchor is, so the order of reading is not quite that of lines.
        let sorted = errors.len().min(shown);
        if let Some(shown) = errors.get_mut(..sorted) {
            shown.sort_by_key(|error| (error.line, error.column));
        }
        errors
    }

    fn error(&self, offset: usize, length: Option<usize>, message: &str) -> ConfigError {
        // What is missing at the end of a file is missing behind its last word.
        let offset = offset.min(self.text.trim_end().len());
        let (before, after) = self.text.split_at(self.text.floor_char_boundary(offset));
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let head = before.get(start..).unwrap_or_default();
        let tail = after.lines().next().unwrap_or_default();
        let width = match length {
            Some(length) => length.min(tail.len()),
            None => word(tail),
        };
        let fits = head.len() + tail.len() <= EXCERPT_LIMIT;
        ConfigError {
            file: self.file.clone(),
            path: String::new(),
            line,
            column: head.chars().count() + 1,
            message: on_one_line(message),
            help: None,
            excerpt: fits.then(|| {
                Box::new(Excerpt {
                    line: format!("{head}{tail}"),
                    start: head.len(),
                    end: head.len() + width,
                })
            }),
        }
    }
}

/// A message on one line, and not longer than anybody reads.
fn on_one_line(message: &str) -> String {
    let mut letters = message.chars();
    let shown = letters.by_ref().take(MESSAGE_LIMIT);
    let mut line: String = shown
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if letters.next().is_some() {
        line.push('…');
    }
    line
}

/// How much of a line to underline if the value itself is not to be seen there.
fn word(line: &str) -> usize {
    if let Some(quoted) = line.strip_prefix('"') {
        let mut is_escaped = false;
        let end = quoted.find(|letter| {
            let is_end = letter == '"' && !is_escaped;
            is_escaped = letter == '\\' && !is_escaped;
            is_end
        });
        return end.map_or(line.len(), |end| end + 2);
    }
    let end = line
        .find(|letter: char| letter.is_whitespace() || ",:{}[]".contains(letter))
        .unwrap_or(line.len());
    if end > 0 {
        return end;
    }
    line.chars().next().map_or(0, char::len_utf8)
}

/// Writes errors for people: each with its line, a caret and the remedy.
pub fn render(errors: &[ConfigError], color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut text = String::new();
    for error in errors {
        text.push_str(&renderer.render(&[report(error)]));
        text.push_str("\n\n");
    }
    text
}

fn report(error: &ConfigError) -> Group<'_> {
    let title = Level::ERROR.primary_title(error.message.as_str());
    let file = error.file.to_string_lossy();
    let group = match &error.excerpt {
        Some(excerpt) => {
            let annotation = AnnotationKind::Primary
                .span(excerpt.start..excerpt.end)
                .label((!error.path.is_empty()).then_some(error.path.as_str()));
            let snippet = Snippet::source(excerpt.line.as_str())
                .line_start(error.line)
                .path(file)
                .annotation(annotation);
            title.element(snippet)
        }
        None => title.element(
            Origin::path(file)
                .line(error.line)
                .char_column(error.column),
        ),
    };
    match &error.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// Writes errors for machines: an array of objects with `file`, `path`, `line`, `column`, `message` and `help`.
pub fn to_json(errors: &[ConfigError]) -> String {
    let list = errors
        .iter()
        .map(|error| {
            serde_json::json!({
                "file": error.file.to_string_lossy(),
                "path": error.path,
                "line": error.line,
                "column": error.column,
                "message": error.message,
                "help": error.help,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_in_a_log_whatever_its_help_shows() {
        let errors = parse::parse(&Source::new("proxy.yaml", ""), &|_| None).unwrap_err();
        let help = errors[0].help.as_deref().unwrap();
        let line = errors[0].to_string();
        assert!(help.contains('\n') && !line.contains('\n'), "{line}");
    }
}
