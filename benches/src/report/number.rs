//! Numbers for people.

/// Three digits that count, or all before the point, in groups of three: `0.0123`, `12.3`, `18,554`.
pub(super) fn plain(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let magnitude = value.abs();
    if magnitude >= 100.0 {
        return grouped(&format!("{value:.0}"));
    }
    // As many places as three digits need.
    let places = [10.0, 1.0, 0.1, 0.01]
        .iter()
        .position(|bound| magnitude >= *bound)
        .map_or(5, |places| places + 1);
    let text = format!("{value:.places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// As above, with a letter for what has more than five digits: `18,554`, `1.2 M`.
pub(super) fn short(value: f64) -> String {
    lettered(value, 1e5)
}

/// A round number, with a letter for thousands and more: `5 k`.
pub(super) fn round(value: f64) -> String {
    lettered(value, 1e3)
}

fn lettered(value: f64, from: f64) -> String {
    let letters: [(f64, &str); 3] = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    let mut fitting = letters.iter().filter(|(factor, _)| value.abs() >= factor.max(from));
    match fitting.next() {
        Some((factor, letter)) => format!("{} {letter}", plain(value / factor)),
        None => plain(value),
    }
}

/// A ratio with two places, or more where it is near 0 or 1, or fewer where it is large.
pub(super) fn ratio(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let places = match value {
        _ if (value - 1.0).abs() < 0.1 || value < 0.1 => 3,
        _ if value >= 100.0 => 0,
        _ if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let mut grouped = sign.to_owned();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_groups() {
        let texts = [0.0, 0.012_34, 0.5, 1.0, 12.34, 123.4, 18_554.3, -1_234_567.0].map(plain);
        assert_eq!(
            texts,
            ["0", "0.0123", "0.5", "1", "12.3", "123", "18,554", "-1,234,567"]
        );
        let texts = [999.0, 5000.0, 18_554.0, 1_200_000.0, 2e9].map(short);
        assert_eq!(texts, ["999", "5,000", "18,554", "1.2 M", "2 G"]);
        assert_eq!([0.5, 500.0, 5000.0, 2e5].map(round), ["0.5", "500", "5 k", "200 k"]);
        assert_eq!(
            [1.0, 1.021, 2.5, 0.02, 35.83, 120.4].map(ratio),
            ["1.000", "1.021", "2.50", "0.020", "35.8", "120"]
        );
    }
}
