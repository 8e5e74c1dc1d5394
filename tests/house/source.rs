//! Reads Rust source well enough to know which paths it says, in what module, and whether only tests say them.
//!
//! Not a parser: comments, strings and character literals are skipped, the rest is words and marks. Macro
//! bodies are read like any other code, so that nothing hides in one.

/// A word or a mark of the source; `::` is one mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) line: usize,
    pub(crate) text: &'a str,
}

/// A path that the source says, from the crate's root where it begins with `crate`, `self` or `super`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
    /// Under `#[cfg(test)]`.
    pub(crate) in_tests: bool,
}

impl Path {
    /// Whether the path begins with `prefix`, written `std::env`.
    pub(crate) fn starts_with(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        prefix
            .split("::")
            .all(|part| segments.next().is_some_and(|segment| segment == part))
    }
}

/// The words and marks of `source`.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest).unwrap_or_else(|| {
            let length = match first {
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            let text = &rest[..length];
            tokens.push(Token { line, text });
            length
        });
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// Every path of `source`, which stands in `module` (`["dataplane", "http"]`), groups taken apart.
pub(crate) fn paths(source: &str, module: &[&str]) -> Vec<Path> {
    let tokens = tokens(source);
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        paths: Vec::new(),
    };
    let mut scopes = vec![Scope {
        module: module.iter().map(ToString::to_string).collect(),
        in_tests: false,
    }];
    let mut next_in_tests = false;
    while let Some(token) = reader.token(0) {
        let scope = scopes.last().expect("the file's own scope is never popped");
        let mut inner = scope.clone();
        inner.in_tests |= next_in_tests;
        match token.text {
            "#" if reader.says(CFG_TEST) => {
                next_in_tests = true;
                reader.at += 7;
            }
            "mod" if reader.token(2).is_some_and(|token| token.text == "{") => {
                inner.module.push(reader.tokens[reader.at + 1].text.into());
                scopes.push(inner);
                next_in_tests = false;
                reader.at += 3;
            }
            "{" => {
                scopes.push(inner);
                next_in_tests = false;
                reader.at += 1;
            }
            "}" => {
                if scopes.len() > 1 {
                    scopes.pop();
                }
                reader.at += 1;
            }
            ";" => {
                next_in_tests = false;
                reader.at += 1;
            }
            "use" => {
                reader.at += 1;
                reader.read_tree(&inner, &[]);
            }
            _ if reader.begins_path() => reader.read_tree(&inner, &[]),
            _ => reader.at += 1,
        }
    }
    reader.paths
}

/// The modules in files of their own that are there for tests alone: `#[cfg(test)] mod testkit;`.
pub(crate) fn test_modules(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let texts: Vec<_> = tokens.iter().map(|token| token.text).collect();
    let marks = texts
        .windows(7)
        .enumerate()
        .filter(|(_, seven)| *seven == CFG_TEST);
    let declared = marks.filter_map(|(at, _)| {
        let item = texts[at + 7..].split(|text| *text == ";").next()?;
        match item {
            [.., "mod", name] if !item.contains(&"{") => Some((*name).to_owned()),
            _ => None,
        }
    });
    declared.collect()
}

const CFG_TEST: &[&str] = &["#", "[", "cfg", "(", "test", ")", "]"];

#[derive(Clone)]
struct Scope {
    module: Vec<String>,
    in_tests: bool,
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    paths: Vec<Path>,
}

impl<'a> Reader<'a> {
    fn token(&self, ahead: usize) -> Option<Token<'a>> {
        self.tokens.get(self.at + ahead).copied()
    }

    fn says(&self, texts: &[&str]) -> bool {
        texts
            .iter()
            .enumerate()
            .all(|(ahead, text)| self.token(ahead).is_some_and(|token| token.text == *text))
    }

    /// A word before `::` that no other path or `pub(in …)` leads to.
    fn begins_path(&self) -> bool {
        let before = |back| Some(self.tokens.get(self.at.checked_sub(back)?)?.text);
        let follows = self.token(1).is_some_and(|token| token.text == "::");
        let is_path = self
            .token(0)
            .is_some_and(|token| token.text.starts_with(is_word));
        let is_visibility = before(1) == Some("in") && before(2) == Some("(");
        is_path && follows && before(1) != Some("::") && !is_visibility
    }

    /// Reads one path or group, and leaves `at` behind it.
    fn read_tree(&mut self, scope: &Scope, prefix: &[String]) {
        let start = self.at;
        let mut line = 0;
        let mut segments = prefix.to_vec();
        if self.says(&["::"]) {
            self.at += 1;
        }
        while let Some(token) = self.token(0) {
            if token.text == "{" {
                return self.read_group(scope, &segments);
            }
            if token.text != "*" && !token.text.starts_with(is_word) {
                break; // `::<T>`, or no path at all.
            }
            line = token.line;
            segments.push(token.text.into());
            self.at += 1;
            if !self.says(&["::"]) {
                break;
            }
            self.at += 1;
        }
        if line == 0 {
            self.at = start + 1; // Whatever it is, reading goes on behind it.
            return;
        }
        self.paths.push(Path {
            line,
            segments: resolve(segments, &scope.module),
            in_tests: scope.in_tests,
        });
    }

    fn read_group(&mut self, scope: &Scope, prefix: &[String]) {
        self.at += 1;
        while let Some(token) = self.token(0) {
            match token.text {
                "}" => {
                    self.at += 1;
                    return;
                }
                "," => self.at += 1,
                "as" => self.at += 2,
                _ => self.read_tree(scope, prefix),
            }
        }
    }
}

/// A path that begins at the crate's root: `self` and `super` are put in place.
fn resolve(segments: Vec<String>, module: &[String]) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = segments.as_slice();
    match rest.first().map(String::as_str) {
        Some("self") => rest = &rest[1..],
        Some("super") => {
            while rest.first().is_some_and(|segment| segment == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => return without_self(segments),
    }
    let whole = ["crate".to_owned()]
        .into_iter()
        .chain(base)
        .chain(rest.iter().cloned());
    without_self(whole.collect())
}

/// `a::{self, b}` says `a` and `a::b`.
fn without_self(mut segments: Vec<String>) -> Vec<String> {
    if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
        segments.pop();
    }
    segments
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How many bytes at the front are blank, a comment, a string, a character or a lifetime.
fn skipped(rest: &str) -> Option<usize> {
    let whole = rest.len();
    let end = |text: &str| rest.find(text).map_or(whole, |at| at + text.len());
    if rest.starts_with(char::is_whitespace) {
        return rest.find(|c: char| !c.is_whitespace()).or(Some(whole));
    }
    if rest.starts_with("//") {
        return Some(end("\n"));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    let opening = ["br", "cr", "r", "b", "c", ""]
        .into_iter()
        .find(|opening| {
            rest.strip_prefix(opening)
                .is_some_and(|rest| rest.starts_with(['"', '#', '\'']))
        })?;
    let body = &rest[opening.len()..];
    let hashes = body.bytes().take_while(|byte| *byte == b'#').count();
    if opening.ends_with('r') && body[hashes..].starts_with('"') {
        let closing = format!("\"{}", "#".repeat(hashes));
        let start = opening.len() + hashes + 1;
        return Some(
            rest[start..]
                .find(&closing)
                .map_or(whole, |at| start + at + closing.len()),
        );
    }
    match body.chars().next() {
        Some('"') if !opening.ends_with('r') => Some(opening.len() + quoted(body, '"')),
        Some('\'') if matches!(opening, "" | "b") => Some(opening.len() + character(body)),
        _ => None,
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a literal between `quote`s, escapes minded.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// `'x'` and `'\n'` are characters, `'a` is a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest.chars().skip(1);
    let (first, second) = (inside.next(), inside.next());
    if first == Some('\\') || second == Some('\'') {
        return quoted(rest, '\'');
    }
    rest[1..]
        .find(|c| !is_word(c))
        .map_or(rest.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, module: &[&str], expected: &[&str]) {
        let found: Vec<_> = paths(source, module)
            .iter()
            .map(|path| path.segments.join("::"))
            .collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn groups_are_taken_apart() {
        check(
            "use crate::{base::{clock, fault::*}, config::Config as Written};",
            &[],
            &[
                "crate::base::clock",
                "crate::base::fault::*",
                "crate::config::Config",
            ],
        );
        check(
            "use crate::dataplane::route::{self, path};",
            &[],
            &["crate::dataplane::route", "crate::dataplane::route::path"],
        );
        check(
            "pub(crate) use notify;\nuse {crate::app, std::env};",
            &[],
            &["notify", "crate::app", "std::env"],
        );
    }

    #[test]
    fn paths_in_expressions_and_types_are_seen() {
        check(
            "fn f(a: &crate::config::Config) -> T { crate::base::clock::now() }",
            &[],
            &["crate::config::Config", "crate::base::clock::now"],
        );
        check("x.map(std::env::var::<T>)", &[], &["std::env::var"]);
        check(
            "if a == crate::base::A { b() } else { c::d }",
            &[],
            &["crate::base::A", "c::d"],
        );
        check(
            "macro_rules! m { () => { $crate::base::x } }",
            &[],
            &["crate::base::x"],
        );
        check(
            "pub(in crate::dataplane) fn f() {} pub(crate) fn g() {}",
            &[],
            &[],
        );
    }

    #[test]
    fn super_and_self_are_put_in_place() {
        check(
            "use super::pool::Pool; use self::deep::Thing;",
            &["config", "route"],
            &[
                "crate::config::pool::Pool",
                "crate::config::route::deep::Thing",
            ],
        );
        check(
            "mod tests { use super::super::pool::Pool; } use super::x;",
            &["config", "route"],
            &["crate::config::pool::Pool", "crate::config::x"],
        );
    }

    #[test]
    fn comments_strings_and_characters_say_nothing() {
        check(
            "// crate::a::b\n/* crate::a /* crate::b */ crate::c */ /// crate::d::e",
            &[],
            &[],
        );
        check(
            r##"f("crate::a \" crate::b", r#"crate::c " crate::d"#, b"crate::e", '"', 'c', '\'', crate::f::g)"##,
            &[],
            &["crate::f::g"],
        );
        check(
            "fn f<'a>(x: &'a str) -> crate::a::B<'a> {}",
            &[],
            &["crate::a::B"],
        );
    }

    #[test]
    fn lines_are_counted_over_what_is_skipped() {
        let found = paths("/* one\ntwo */\n\nlet a = \"x\ny\";\nuse crate::base;", &[]);
        assert_eq!(found[0].line, 6);
    }

    #[test]
    fn what_only_tests_say_is_told_apart() {
        let source = "use a::b; #[cfg(test)] mod tests { use c::d; fn f() { e::f() } } use g::h;\n\
                      #[cfg(test)] use i::j; use k::l;";
        let found: Vec<_> = paths(source, &[])
            .iter()
            .map(|path| path.in_tests)
            .collect();
        assert_eq!(found, [false, true, true, false, true, false]);
    }

    #[test]
    fn files_for_tests_are_told_by_their_declaration() {
        let source = "mod a; #[cfg(test)] pub(crate) mod b; #[cfg(test)] mod c { mod d; } #[cfg(test)] use e::f;";
        assert_eq!(test_modules(source), ["b"]);
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let found = paths("use std::envelope; use std::env;", &[]);
        assert_eq!(
            [
                found[0].starts_with("std::env"),
                found[1].starts_with("std::env")
            ],
            [false, true]
        );
    }
}
