//! Trees, drawn with lines or with ASCII characters.

use std::io::{self, Write};

/// A line of a tree and what hangs below it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) text: String,
    pub(crate) children: Vec<Self>,
}

/// The strokes of a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strokes {
    branch: &'static str,
    last: &'static str,
    line: &'static str,
}

impl Strokes {
    pub(crate) const UNICODE: Self = Self {
        branch: "├─ ",
        last: "└─ ",
        line: "│  ",
    };
    pub(crate) const ASCII: Self = Self {
        branch: "|- ",
        last: "`- ",
        line: "|  ",
    };

    /// Lines where the locale can show them.
    pub(crate) fn for_locale() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        let is_utf8 = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        if is_utf8 { Self::UNICODE } else { Self::ASCII }
    }
}

/// Writes a root and everything below it. The depth is that of the machine's bus hierarchy: at most 256 buses and a VF.
pub(crate) fn write(out: &mut impl Write, root: &Node, strokes: Strokes) -> io::Result<()> {
    writeln!(out, "{}", root.text)?;
    write_children(out, root, strokes, &mut String::new())
}

fn write_children(out: &mut impl Write, node: &Node, strokes: Strokes, prefix: &mut String) -> io::Result<()> {
    let count = node.children.len();
    for (index, child) in node.children.iter().enumerate() {
        let is_last = index + 1 == count;
        let (stroke, below) = if is_last {
            (strokes.last, "   ")
        } else {
            (strokes.branch, strokes.line)
        };
        writeln!(out, "{prefix}{stroke}{}", child.text)?;
        let len = prefix.len();
        prefix.push_str(below);
        write_children(out, child, strokes, prefix)?;
        prefix.truncate(len);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node<const N: usize>(text: &str, children: [Node; N]) -> Node {
        Node {
            text: text.to_owned(),
            children: children.into(),
        }
    }

    #[test]
    fn strokes_lead_to_every_node() {
        let tree = node(
            "a",
            [node("b", [node("c", []), node("d", [])]), node("e", [node("f", [])])],
        );
        let mut out = Vec::new();
        write(&mut out, &tree, Strokes::UNICODE).unwrap();
        write(&mut out, &tree, Strokes::ASCII).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }
}
