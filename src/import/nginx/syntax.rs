//! The syntax of nginx's configs: words, quotes, blocks, comments and includes.

use super::super::{DEPTH_LIMIT, FILES_LIMIT, ImportError, Include};

/// A directive with its words, and the block behind it if it has one.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) words: Vec<String>,
    pub(super) block: Option<Vec<Self>>,
}

impl Directive {
    pub(super) fn place(&self) -> (&str, usize) {
        (&self.file, self.line)
    }

    /// As it was written, without its block.
    pub(super) fn shown(&self) -> String {
        let words = self.words.iter().map(|word| format!(" {word}"));
        let shown: String = [self.name.clone()].into_iter().chain(words).collect();
        match shown.char_indices().nth(100) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }

    pub(super) fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    pub(super) fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Directives whose files could not be read: the include and the reason.
pub(super) type Unread = Vec<(Directive, String)>;

/// Reads a file and what it includes.
///
/// # Errors
/// The place where the text is no config.
pub(super) fn read(
    file: &str,
    text: &str,
    include: Include<'_>,
) -> Result<(Vec<Directive>, Unread), ImportError> {
    let mut reader = Reader {
        include,
        unread: Vec::new(),
        files: 0,
    };
    let directives = reader.file(file, text, 0)?;
    Ok((directives, reader.unread))
}

struct Reader<'a> {
    include: Include<'a>,
    unread: Unread,
    files: usize,
}

impl Reader<'_> {
    fn file(
        &mut self,
        file: &str,
        text: &str,
        depth: usize,
    ) -> Result<Vec<Directive>, ImportError> {
        let mut tokens = Tokens {
            file,
            rest: text,
            line: 1,
        };
        let directives = self.block(&mut tokens, depth, true)?;
        Ok(directives)
    }

    fn block(
        &mut self,
        tokens: &mut Tokens<'_>,
        depth: usize,
        is_file: bool,
    ) -> Result<Vec<Directive>, ImportError> {
        if depth > DEPTH_LIMIT {
            return Err(tokens.error("blocks and files are nested too deep"));
        }
        let mut found = Vec::new();
        let mut words: Vec<String> = Vec::new();
        let mut line = tokens.line;
        loop {
            let token = tokens.next()?;
            match token {
                Some(Token::Word(word)) => {
                    if words.is_empty() {
                        line = tokens.line;
                    }
                    words.push(word);
                }
                Some(end @ (Token::Semicolon | Token::Open)) => {
                    if words.is_empty() {
                        return Err(tokens.error("a directive has no name"));
                    }
                    let name = words.remove(0);
                    let is_code = end == Token::Open && name.ends_with("_by_lua_block");
                    let block = match end {
                        Token::Open if is_code => {
                            tokens.skip_code()?;
                            Some(Vec::new())
                        }
                        Token::Open => Some(self.block(tokens, depth + 1, false)?),
                        _ => None,
                    };
                    let directive = Directive {
                        file: tokens.file.to_owned(),
                        line,
                        name,
                        words: std::mem::take(&mut words),
                        block,
                    };
                    if directive.name == "include" && directive.block.is_none() {
                        self.included(directive, depth, &mut found)?;
                    } else {
                        found.push(directive);
                    }
                }
                Some(Token::Close) if !is_file && words.is_empty() => return Ok(found),
                None if is_file && words.is_empty() => return Ok(found),
                Some(Token::Close) if words.is_empty() => {
                    return Err(tokens.error("a `}` has no `{`"));
                }
                Some(Token::Close) => return Err(tokens.error("a directive ends without `;`")),
                None if words.is_empty() => return Err(tokens.error("a block has no `}`")),
                None => return Err(tokens.error("the file ends within a directive")),
            }
        }
    }

    fn included(
        &mut self,
        directive: Directive,
        depth: usize,
        found: &mut Vec<Directive>,
    ) -> Result<(), ImportError> {
        match (self.include)(directive.word(0)) {
            Ok(files) => {
                self.files += files.len();
                if self.files > FILES_LIMIT || depth >= DEPTH_LIMIT {
                    return Err(ImportError {
                        file: directive.file,
                        line: directive.line,
                        message: "too many files are included, or they include each other".into(),
                    });
                }
                for (file, text) in files {
                    found.extend(self.file(&file, &text, depth + 1)?);
                }
            }
            Err(why) => self.unread.push((directive, why)),
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
}

struct Tokens<'a> {
    file: &'a str,
    rest: &'a str,
    line: usize,
}

impl Tokens<'_> {
    fn error(&self, message: &str) -> ImportError {
        ImportError {
            file: self.file.to_owned(),
            line: self.line,
            message: message.to_owned(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        if next == '\n' {
            self.line += 1;
        }
        Some(next)
    }

    fn next(&mut self) -> Result<Option<Token>, ImportError> {
        loop {
            match self.peek() {
                None => return Ok(None),
                Some('#') => {
                    while self.peek().is_some_and(|next| next != '\n') {
                        self.take();
                    }
                }
                Some(space) if space.is_whitespace() => drop(self.take()),
                Some(_) => break,
            }
        }
        let token = match self.peek() {
            Some(';') => Token::Semicolon,
            Some('{') => Token::Open,
            Some('}') => Token::Close,
            Some(quote @ ('"' | '\'')) => {
                self.take();
                return self.quoted(quote).map(Some);
            }
            _ => return Ok(Some(Token::Word(self.plain()))),
        };
        self.take();
        Ok(Some(token))
    }

    fn quoted(&mut self, quote: char) -> Result<Token, ImportError> {
        let mut word = String::new();
        loop {
            match self.take() {
                Some(end) if end == quote => return Ok(Token::Word(word)),
                Some('\\') => match self.take() {
                    Some('n') => word.push('\n'),
                    Some('t') => word.push('\t'),
                    Some('r') => word.push('\r'),
                    Some(escaped @ ('"' | '\'' | '\\')) => word.push(escaped),
                    // Anything else keeps its backslash: expressions are full of them.
                    Some(other) => word.extend(['\\', other]),
                    None => return Err(self.error("a quote is not closed")),
                },
                Some(other) => word.push(other),
                None => return Err(self.error("a quote is not closed")),
            }
        }
    }

    fn plain(&mut self) -> String {
        let mut word = String::new();
        while let Some(next) = self.peek() {
            let is_variable = next == '{' && word.ends_with('$');
            if is_variable {
                while let Some(inner) = self.take() {
                    word.push(inner);
                    if inner == '}' {
                        break;
                    }
                }
                continue;
            }
            if next.is_whitespace() || matches!(next, ';' | '{' | '}') {
                break;
            }
            self.take();
            word.push(next);
            if next == '\\' {
                word.extend(self.take());
            }
        }
        word
    }

    /// Goes behind the brace that closes a block of code.
    fn skip_code(&mut self) -> Result<(), ImportError> {
        let mut open = 1;
        while open > 0 {
            match self.take() {
                Some('{') => open += 1,
                Some('}') => open -= 1,
                Some(_) => {}
                None => return Err(self.error("a block of code has no end")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Result<Vec<(String, String)>, String> {
        Err("there is none".into())
    }

    fn shown(text: &str) -> Result<Vec<String>, String> {
        fn flat(directives: &[Directive], into: &mut Vec<String>) {
            for one in directives {
                into.push(format!("{}: {:?} {:?}", one.line, one.name, one.words));
                flat(one.inner(), into);
            }
        }
        let (directives, _) = read("x", text, &nothing).map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        flat(&directives, &mut found);
        Ok(found)
    }

    #[test]
    fn directives_are_words_and_blocks() {
        let text = "a 'b c' \"d\\\"e\"; # f\n\nlocation ~ \\.php$ { set $x ${y}z; }\n";
        let expected = [
            r#"1: "a" ["b c", "d\"e"]"#,
            r#"3: "location" ["~", "\\.php$"]"#,
            r#"3: "set" ["$x", "${y}z"]"#,
        ];
        assert_eq!(shown(text).unwrap(), expected);
    }

    #[test]
    fn what_is_no_config_is_told_with_its_line() {
        for (text, expected) in [
            ("a b", "x:1: the file ends within a directive"),
            ("a {\n", "x:2: a block has no `}`"),
            ("\n}", "x:2: a `}` has no `{`"),
            ("a { b }", "x:1: a directive ends without `;`"),
            ("a 'b;", "x:1: a quote is not closed"),
            (";", "x:1: a directive has no name"),
        ] {
            assert_eq!(shown(text).unwrap_err(), expected, "{text:?}");
        }
        let deep = "a {".repeat(DEPTH_LIMIT + 2);
        assert!(shown(&deep).unwrap_err().contains("too deep"));
    }

    #[test]
    fn files_that_include_themselves_come_to_an_end() {
        let again = |_: &str| Ok(vec![("x".to_owned(), "include x;".to_owned())]);
        let error = read("x", "include x;", &again).unwrap_err();
        assert!(error.message.contains("include each other"), "{error}");
    }
}
