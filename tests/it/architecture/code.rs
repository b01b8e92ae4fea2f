//! Rust source as rules want to see it: its tokens without comments, and every path it names, `use` lists written out.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Source in one piece, or what is left of it without test code.
#[derive(Default)]
pub(super) struct Code {
    tokens: Vec<Token>,
    /// `use std::{fs, io::Read};` gives `std`, `std::fs` and `std::io::Read`.
    paths: Vec<Token>,
}

struct Token {
    line: usize,
    text: String,
}

impl Code {
    pub(super) fn of(stream: TokenStream) -> Self {
        let mut code = Self::default();
        code.add_paths("", stream.clone());
        code.add_tokens(stream);
        code
    }

    /// The lines in which these tokens follow one another.
    pub(super) fn lines_with(&self, sequence: &[&str]) -> Vec<usize> {
        let windows = self.tokens.windows(sequence.len());
        let fits = |window: &&[Token]| window.iter().map(|token| &token.text).eq(sequence);
        windows.filter(fits).map(|window| window[0].line).collect()
    }

    /// The lines that call one of these macros.
    pub(super) fn lines_calling(&self, macros: &[&str]) -> Vec<usize> {
        macros.iter().flat_map(|name| self.lines_with(&[name, "!"])).collect()
    }

    /// The lines that name a path for which `is_wanted`.
    pub(super) fn lines_naming(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<usize> {
        let wanted = self.paths.iter().filter(|path| is_wanted(&path.text));
        wanted.map(|path| path.line).collect()
    }

    /// The lines that name one of these modules or anything in them.
    pub(super) fn lines_reaching(&self, modules: &[&str]) -> Vec<usize> {
        self.lines_naming(|path| modules.iter().any(|module| is_in(path, module)))
    }

    /// The lines with a `static` that is `mut` or whose type is made of one for which `is_mutable`.
    pub(super) fn lines_with_static(&self, is_mutable: impl Fn(&str) -> bool) -> Vec<usize> {
        let mut lines = Vec::new();
        let mut before = "";
        for (position, token) in self.tokens.iter().enumerate() {
            // Not the lifetime.
            if token.text == "static" && before != "'" {
                let declaration = self.tokens[position..].iter().map(|token| token.text.as_str());
                let mut declaration = declaration.take_while(|text| !["=", ";"].contains(text));
                if declaration.any(|text| text == "mut" || is_mutable(text)) {
                    lines.push(token.line);
                }
            }
            before = &token.text;
        }
        lines
    }

    fn add_tokens(&mut self, stream: TokenStream) {
        for tree in stream {
            let line = tree.span().start().line;
            let mut add = |line, text: String| self.tokens.push(Token { line, text });
            match tree {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("(", ")"),
                        Delimiter::Brace => ("{", "}"),
                        Delimiter::Bracket => ("[", "]"),
                        Delimiter::None => ("", ""),
                    };
                    add(line, open.to_owned());
                    self.add_tokens(group.stream());
                    let line = group.span_close().end().line;
                    self.tokens.push(Token {
                        line,
                        text: close.to_owned(),
                    });
                }
                // Quotes keep it apart from any name.
                TokenTree::Literal(literal) => add(line, literal.to_string()),
                TokenTree::Ident(name) => add(line, name.to_string()),
                TokenTree::Punct(punct) => add(line, punct.to_string()),
            }
        }
    }

    fn add_paths(&mut self, prefix: &str, stream: TokenStream) {
        let trees: Vec<_> = stream.into_iter().collect();
        let mut rest = trees.as_slice();
        while let [first, following @ ..] = rest {
            rest = following;
            let line = first.span().start().line;
            let mut text = match first {
                TokenTree::Group(group) => {
                    self.add_paths("", group.stream());
                    continue;
                }
                // A new name in a `use` list.
                TokenTree::Ident(word) if word == "as" && !prefix.is_empty() => {
                    rest = rest.get(1..).unwrap_or_default();
                    continue;
                }
                TokenTree::Ident(name) => join(prefix, &name.to_string()),
                TokenTree::Punct(star) if star.as_char() == '*' && !prefix.is_empty() => join(prefix, "*"),
                _ => continue,
            };
            while let [TokenTree::Punct(a), TokenTree::Punct(b), next, following @ ..] = rest {
                if (a.as_char(), b.as_char()) != (':', ':') {
                    break;
                }
                match next {
                    TokenTree::Ident(name) => text = join(&text, &name.to_string()),
                    TokenTree::Punct(star) if star.as_char() == '*' => text = join(&text, "*"),
                    TokenTree::Group(list) if list.delimiter() == Delimiter::Brace => {
                        self.add_paths(&text, list.stream());
                    }
                    _ => break,
                }
                rest = following;
            }
            self.paths.push(Token { line, text });
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}::{name}")
    }
}

/// Whether a path is this module or in it.
pub(super) fn is_in(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix(module);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Takes away items that exist only in tests; adds the names of modules among them that have a file of their own.
pub(super) fn without_tests(stream: TokenStream, test_modules: &mut Vec<String>) -> TokenStream {
    let mut trees = stream.into_iter().peekable();
    let mut kept = Vec::new();
    while let Some(tree) = trees.next() {
        match (tree, trees.peek()) {
            (TokenTree::Punct(hash), Some(TokenTree::Group(attribute)))
                if hash.as_char() == '#' && is_for_tests(attribute) =>
            {
                let mut item = Vec::new();
                for tree in trees.by_ref() {
                    let is_last = match &tree {
                        TokenTree::Punct(punct) => punct.as_char() == ';',
                        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                        _ => false,
                    };
                    item.push(tree.to_string());
                    if is_last {
                        break;
                    }
                }
                if let [.., keyword, name, end] = item.as_slice()
                    && keyword == "mod"
                    && end == ";"
                {
                    test_modules.push(name.clone());
                }
            }
            (TokenTree::Group(group), _) => {
                let inner = without_tests(group.stream(), test_modules);
                let mut rebuilt = Group::new(group.delimiter(), inner);
                rebuilt.set_span(group.span());
                kept.push(rebuilt.into());
            }
            (tree, _) => kept.push(tree),
        }
    }
    kept.into_iter().collect()
}

/// `[cfg(test)]`, `[cfg(any(test, …))]`.
fn is_for_tests(attribute: &Group) -> bool {
    let code = Code::of(attribute.stream());
    let has = |name| !code.lines_with(&[name]).is_empty();
    has("cfg") && has("test") && !has("not")
}
