//! Shell-like patterns: `*` is any text, `?` any one character; letter case does not matter. No other character is special.

/// Whether the text has wildcards at all.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether `text` as a whole fits `pattern`. Takes time proportional to the product of both lengths at worst.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // reachable[i]: the pattern so far fits the first i characters.
    let mut reachable = vec![false; text.len() + 1];
    if let Some(start) = reachable.first_mut() {
        *start = true;
    }
    for token in pattern.chars() {
        let mut next = vec![false; reachable.len()];
        let mut any_before = false;
        let mut previous = false;
        for (index, slot) in next.iter_mut().enumerate() {
            let here = reachable.get(index).copied().unwrap_or(false);
            any_before |= here;
            *slot = match token {
                '*' => any_before,
                '?' => previous,
                _ => {
                    let read = index.checked_sub(1).and_then(|i| text.get(i));
                    previous && read.is_some_and(|read| read.eq_ignore_ascii_case(&token))
                }
            };
            previous = here;
        }
        reachable = next;
    }
    reachable.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_is_any_text_and_question_mark_one_character() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("ens*", "ens1f0", true),
            ("ens?f0", "ens1f0", true),
            ("ens?f0", "ensf0", false),
            ("*f0", "ens1f0", true),
            ("*f*0", "ens1f0np0", true),
            ("0000:3B:*", "0000:3b:00.2", true),
            ("0000:3b:*", "0000:3c:00.2", false),
            ("[a]", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        assert!(!matches(&"a*".repeat(40), &"a".repeat(39)));
    }

    /// The meaning of a pattern, written down as plainly as possible.
    fn reference(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(('*', rest)), None) => reference(rest, text),
            (Some(('*', rest)), Some((_, fewer))) => reference(rest, text) || reference(pattern, fewer),
            (Some(_), None) => false,
            (Some((p, rest)), Some((c, fewer))) => (*p == '?' || p.eq_ignore_ascii_case(c)) && reference(rest, fewer),
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_plain_definition(pattern in "[ab*?]{0,6}", text in "[abA]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            proptest::prop_assert_eq!(matches(&pattern, &text), reference(&chars(&pattern), &chars(&text)));
        }
    }
}
