//! The syntax of Caddyfiles: lines of words, quotes, blocks, comments, snippets.

use super::super::{DEPTH_LIMIT, FILES_LIMIT, ImportError, Include};

/// A line of words, and the block behind it if it has one.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) words: Vec<String>,
    pub(super) block: Option<Vec<Self>>,
}

impl Line {
    pub(super) fn place(&self) -> (&str, usize) {
        (&self.file, self.line)
    }

    pub(super) fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    pub(super) fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    pub(super) fn shown(&self) -> String {
        let shown = self.words.join(" ");
        match shown.char_indices().nth(100) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// Imports whose files could not be read, and why.
pub(super) type Unread = Vec<(Line, String)>;

/// Reads a file, with the snippets and files that it imports in their places. What could not be read is told.
///
/// # Errors
/// The place where the text is no Caddyfile.
pub(super) fn read(
    file: &str,
    text: &str,
    include: Include<'_>,
) -> Result<(Vec<Line>, Unread), ImportError> {
    let lines = parse(file, text)?;
    let mut expander = Expander {
        include,
        snippets: Vec::new(),
        unread: Vec::new(),
        files: 0,
    };
    let lines = expander.expand(lines, 0)?;
    Ok((lines, expander.unread))
}

struct Expander<'a> {
    include: Include<'a>,
    snippets: Vec<(String, Vec<Line>)>,
    unread: Unread,
    files: usize,
}

impl Expander<'_> {
    fn expand(&mut self, lines: Vec<Line>, depth: usize) -> Result<Vec<Line>, ImportError> {
        let mut found = Vec::new();
        for mut line in lines {
            let first = line.word(0).to_owned();
            if let Some(name) = first
                .strip_prefix('(')
                .and_then(|name| name.strip_suffix(')'))
            {
                self.snippets
                    .push((name.to_owned(), line.block.take().unwrap_or_default()));
                continue;
            }
            if first == "import" {
                self.files += 1;
                if depth >= DEPTH_LIMIT || self.files > FILES_LIMIT {
                    return Err(ImportError {
                        file: line.file,
                        line: line.line,
                        message: "too much is imported, or it imports itself".into(),
                    });
                }
                let name = line.word(1).to_owned();
                let snippet = self.snippets.iter().find(|(known, _)| *known == name);
                if let Some((_, lines)) = snippet {
                    let lines = fill(lines, line.words.get(2..).unwrap_or_default());
                    found.extend(self.expand(lines, depth + 1)?);
                    continue;
                }
                match (self.include)(&name) {
                    Ok(files) => {
                        for (file, text) in files {
                            let lines = parse(&file, &text)?;
                            found.extend(self.expand(lines, depth + 1)?);
                        }
                    }
                    Err(why) => self.unread.push((line, why)),
                }
                continue;
            }
            if let Some(block) = line.block.take() {
                line.block = Some(self.expand(block, depth + 1)?);
            }
            found.push(line);
        }
        Ok(found)
    }
}

/// The lines of a snippet with its arguments in their places.
fn fill(lines: &[Line], arguments: &[String]) -> Vec<Line> {
    let fill_word = |word: &String| {
        let mut word = word.clone();
        for (number, argument) in arguments.iter().enumerate() {
            word = word
                .replace(&format!("{{args[{number}]}}"), argument)
                .replace(&format!("{{args.{number}}}"), argument);
        }
        word
    };
    lines
        .iter()
        .map(|line| Line {
            words: line.words.iter().map(fill_word).collect(),
            block: line.block.as_ref().map(|block| fill(block, arguments)),
            ..line.clone()
        })
        .collect()
}

fn parse(file: &str, text: &str) -> Result<Vec<Line>, ImportError> {
    let mut tokens = tokens(file, text)?.into_iter();
    let error = |line: usize, message: &str| ImportError {
        file: file.to_owned(),
        line,
        message: message.to_owned(),
    };
    // Blocks that are open, the innermost last, each with the line that it belongs to.
    let mut open: Vec<(Vec<Line>, Line)> = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    let mut current = empty(file, 0);
    let mut last = 1;
    for (line, token) in &mut tokens {
        last = line;
        match token {
            Token::Word(word) => {
                if current.words.is_empty() {
                    current.line = line;
                }
                current.words.push(word);
            }
            Token::End => {
                // Addresses go on behind a comma at the end of a line.
                if !current.words.is_empty()
                    && !current.word(current.words.len() - 1).ends_with(',')
                {
                    lines.push(std::mem::replace(&mut current, empty(file, 0)));
                }
            }
            Token::Open => {
                if open.len() > DEPTH_LIMIT {
                    return Err(error(line, "blocks are nested too deep"));
                }
                if current.words.is_empty() {
                    current.line = line;
                }
                let head = std::mem::replace(&mut current, empty(file, 0));
                open.push((std::mem::take(&mut lines), head));
            }
            Token::Close => {
                if !current.words.is_empty() {
                    lines.push(std::mem::replace(&mut current, empty(file, 0)));
                }
                let Some((outer, mut head)) = open.pop() else {
                    return Err(error(line, "a `}` has no `{`"));
                };
                head.block = Some(std::mem::replace(&mut lines, outer));
                lines.push(head);
            }
        }
    }
    if !open.is_empty() {
        return Err(error(last, "a block has no `}`"));
    }
    if !current.words.is_empty() {
        lines.push(current);
    }
    // A file with one site may do without braces: its first line is the address.
    let is_bare = lines
        .first()
        .is_some_and(|line| line.block.is_none() && line.word(0) != "import");
    if is_bare {
        let mut head = lines.remove(0);
        head.block = Some(lines);
        return Ok(vec![head]);
    }
    Ok(lines)
}

fn empty(file: &str, line: usize) -> Line {
    Line {
        file: file.to_owned(),
        line,
        words: Vec::new(),
        block: None,
    }
}

fn tokens(file: &str, text: &str) -> Result<Vec<(usize, Token)>, ImportError> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.next() {
        match first {
            '\n' => {
                found.push((line, Token::End));
                line += 1;
            }
            space if space.is_whitespace() => {}
            '#' => {
                while rest.peek().is_some_and(|next| *next != '\n') {
                    rest.next();
                }
            }
            '\\' if rest.peek() == Some(&'\n') => {
                rest.next();
                line += 1;
            }
            quote @ ('"' | '`') => {
                let begin = line;
                let mut word = String::new();
                loop {
                    match rest.next() {
                        Some(end) if end == quote => break,
                        Some('\\') if quote == '"' && rest.peek() == Some(&'"') => {
                            rest.next();
                            word.push('"');
                        }
                        Some(other) => {
                            line += usize::from(other == '\n');
                            word.push(other);
                        }
                        None => {
                            return Err(ImportError {
                                file: file.to_owned(),
                                line: begin,
                                message: "a quote is not closed".into(),
                            });
                        }
                    }
                }
                found.push((begin, Token::Word(word)));
            }
            other => {
                let mut word = String::from(other);
                while let Some(next) = rest.peek().copied().filter(|next| !next.is_whitespace()) {
                    word.push(next);
                    rest.next();
                }
                found.push((
                    line,
                    match word.as_str() {
                        "{" => Token::Open,
                        "}" => Token::Close,
                        _ => Token::Word(word),
                    },
                ));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Result<Vec<(String, String)>, String> {
        Err("there is none".into())
    }

    fn shown(text: &str) -> Result<Vec<String>, String> {
        fn flat(lines: &[Line], into: &mut Vec<String>) {
            for one in lines {
                into.push(format!("{}: {:?}", one.line, one.words));
                flat(one.inner(), into);
            }
        }
        let (lines, _) = read("x", text, &nothing).map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        flat(&lines, &mut found);
        Ok(found)
    }

    #[test]
    fn lines_are_words_and_blocks() {
        let text = "(s) {\n\theader X {args[0]}\n}\na.test,\nb.test {\n\timport s \"1 2\" # c\n}\n";
        assert_eq!(
            shown(text).unwrap(),
            [
                r#"4: ["a.test,", "b.test"]"#,
                r#"2: ["header", "X", "1 2"]"#
            ]
        );
        assert_eq!(
            shown("a.test\nrespond ok\n").unwrap(),
            [r#"1: ["a.test"]"#, r#"2: ["respond", "ok"]"#]
        );
    }

    #[test]
    fn what_is_no_caddyfile_is_told_with_its_line() {
        for (text, expected) in [
            ("a {\nb\n", "x:2: a block has no `}`"),
            ("a {\n}\n}", "x:3: a `}` has no `{`"),
            ("a {\n\"b\n}", "x:2: a quote is not closed"),
        ] {
            assert_eq!(shown(text).unwrap_err(), expected, "{text:?}");
        }
    }
}
